# Puts what it reads on stdin in place: first the kit, then the device's folder, as tars.
# Each is unpacked beside its place and gets its name when it is whole and on the medium; what
# the board uses are links, and those are switched last. Killed anywhere, it leaves the old
# links or the new ones, and is simply run again.
# Arguments: root, kit, device's folder, bytes of the kit's tar, bytes of the folder's (0: it
# is there already), yes to start the agent.
set -eu
root=${1%/} kit=$2 device=$3 kit_bytes=$4 device_bytes=$5 start=$6
opt=$root/opt/wherry lib=$root/var/lib/wherry units=$root/etc/systemd/system
umask 022
mkdir -p "$opt" "$root/var/lib" "$units/multi-user.target.wants"
[ -d "$lib" ] || mkdir -m 700 "$lib"
rm -rf "$opt/.new" "$lib/.new"
if [ "$kit_bytes" -gt 0 ]; then
  mkdir "$opt/.new"
  head -c "$kit_bytes" | tar -x -p -C "$opt/.new"
  rm "$opt/.new/.whole" # the last member: tar takes one that ends between two for a whole one
fi
if [ "$device_bytes" -gt 0 ]; then
  mkdir -m 700 "$lib/.new"
  head -c "$device_bytes" | tar -x -p -C "$lib/.new"
  rm "$lib/.new/.whole"
  # after the first start the folder is the agent's own, whoever that is
  chown -R --reference="$lib/." "$lib/.new"
fi
sync -f "$opt" "$lib/."
[ "$kit_bytes" -eq 0 ] || mv -T "$opt/.new" "$opt/$kit"
[ "$device_bytes" -eq 0 ] || mv -T "$lib/.new" "$lib/$device"
switch() { # what a link says, the link
  [ "$(readlink "$2" || :)" != "$1" ] || return 0
  rm -f "$2.new"
  ln -s "$1" "$2.new"
  mv -fT "$2.new" "$2"
}
now=$(readlink "$opt/current" || :)
case $now in "" | "$kit") ;; *) switch "$now" "$opt/former" ;; esac
switch /opt/wherry/current/wherry-agent.service "$units/wherry-agent.service"
switch ../wherry-agent.service "$units/multi-user.target.wants/wherry-agent.service"
switch "$kit" "$opt/current"
switch "$device" "$lib/current"
chown -h --reference="$lib/." "$lib/current"
sync -f "$opt" "$lib/." "$units"
# the former kit stays: an agent that runs imports from it until it is restarted
former=$(readlink "$opt/former" || :)
for old in "$opt"/*; do
  case ${old##*/} in
  "$kit" | "$former" | current | former) ;;
  *) rm -rf "$old" ;;
  esac
done
if [ "$start" = yes ]; then
  systemctl daemon-reload
  systemctl restart wherry-agent.service
fi
