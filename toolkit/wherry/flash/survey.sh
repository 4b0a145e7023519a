# What a board is and has: one NAME=VALUE a line. Runs on the board, or here on its card.
# Arguments: its root, the kit, the device's folder, then packages of Debian.
set -eu
root=${1%/} kit=$2 device=$3
shift 3
status=$root/var/lib/dpkg/status
installed() { # of a package: whether it is installed; status=1 also prints its architecture
  awk -v want="$1" '
    $1 == "Package:" { here = ($2 == want) }
    here && $1 == "Status:" { good = ($4 == "installed") }
    here && $1 == "Architecture:" { arch = $2 }
    END { if (!good) exit 1; print arch }' "$status"
}
resolved() { # of a path below the root, as far as it exists; a link may lead out of a card
  path=$1
  while [ ! -e "$path" ]; do path=${path%/*}; [ -n "$path" ] || path=/; done
  readlink -f "$path"
}
echo "user=$(id -u)"
echo "root=$(resolved "${root:-/}")"
for place in opt/wherry var/lib/wherry etc/systemd/system; do
  echo "place=$(resolved "$root/$place")"
done
echo "python=$(readlink "$root/usr/bin/python3" || :)"
if [ -r "$status" ]; then
  echo "architecture=$(installed dpkg || :)"
  for package; do installed "$package" >/dev/null || echo "missing=$package"; done
fi
echo "current_kit=$(readlink "$root/opt/wherry/current" || :)"
echo "current_device=$(readlink "$root/var/lib/wherry/current" || :)"
[ -d "$root/opt/wherry/$kit" ] && echo "has_kit=yes"
[ -d "$root/var/lib/wherry/$device" ] && echo "has_device=yes"
echo "free=$(df -Pk "$(resolved "$root/opt/wherry")" | awk 'NR == 2 { print $4 }')"
