/* Watches, fails and kills: every call of a program that changes a file below one folder.

   Preloaded (LD_PRELOAD) into the real agent or server, so that what SQLite does from C is
   seen as well as what Python does. Each call is carried out, written to a log with its
   bytes, and counted; after the one that is asked for, the whole program is killed. Or a
   call fails instead, with an errno that is asked for or drawn from a seed.

   The test and all processes share one page of memory, laid out as in support_shim.py.
   Not seen: writes through mmap (only SQLite's -shm, which no crash keeps), stdio and
   sendfile; support_medium.py compares the log with the folder, so none can hide. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct page {
  uint64_t count;      /* calls so far */
  uint64_t kill_at;    /* die after so many calls, as `begun` counts them; 0 never */
  uint64_t main;       /* process id of the first process */
  uint64_t per_million; /* chance that a call fails */
  uint64_t seed;
  uint64_t failed;     /* calls that failed */
  uint64_t armed;      /* 0: everything passes unseen */
  uint64_t fail_at;    /* the first call that fails, ... */
  uint64_t fail_times; /* ... and how many do */
  uint64_t fail_errno; /* with what; 0 for a short write */
  uint64_t reads;      /* whether reads may fail too */
  uint64_t asked;      /* calls that could have failed */
  uint64_t begun;      /* calls but syncs since the pattern was written; all if there is none:
                          a program killed after a sync leaves what it left before it */
  uint64_t killed;     /* 1 once the program was told to die: its end may take a while */
  char pattern[64];
  char root[512];
  pthread_mutex_t lock;
};

struct record {
  uint32_t kind, path_bytes, other_bytes, data_bytes;
  uint64_t file, offset;
};

static struct page *page;
static int log_file = -1;

__attribute__((constructor)) static void start(void) {
  const char *state = getenv("WHERRY_SHIM_PAGE");
  const char *log = getenv("WHERRY_SHIM_LOG");
  if (!state) return;
  int opened = syscall(SYS_openat, AT_FDCWD, state, O_RDWR | O_CLOEXEC);
  if (opened < 0) _exit(97);
  struct page *mapped = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);
  close(opened);
  if (mapped == MAP_FAILED) _exit(97);
  if (__sync_bool_compare_and_swap(&mapped->main, 0, (uint64_t)getpid())) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mapped->lock, &kind);
  }
  if (log && *log) {
    int low = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_file = fcntl(low, F_DUPFD_CLOEXEC, 500);
    close(low);
    if (log_file < 0) _exit(97);
  }
  page = mapped;
}

static void enter(void) {
  if (pthread_mutex_lock(&page->lock) == EOWNERDEAD) pthread_mutex_consistent(&page->lock);
}

static void leave(void) {
  int kept = errno;
  pthread_mutex_unlock(&page->lock);
  errno = kept;
}

static int is_tracked(const char *path) {
  size_t bytes = strlen(path), watched = strlen(page->root);
  if (!watched || strncmp(path, page->root, watched)) return 0;
  if (path[watched] != '/' && path[watched]) return 0;
  return bytes < 4 || strcmp(path + bytes - 4, "-shm");
}

static int path_of(int file, char *into) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t bytes = readlink(link, into, PATH_MAX - 1);
  if (bytes < 0) return 0;
  into[bytes] = 0;
  return 1;
}

/* A name below a link is the name where the link leads; the last part itself is kept. */
static int settle(char *full) {
  char real[PATH_MAX];
  int kept = errno;
  char *last = strrchr(full, '/');
  if (!last || last == full) return is_tracked(full);
  *last = 0;
  int found = realpath(full, real) != NULL;
  *last = '/';
  errno = kept;
  if (!found || strlen(real) + strlen(last) >= PATH_MAX) return 0;
  memmove(full + strlen(real), last, strlen(last) + 1);
  memcpy(full, real, strlen(real));
  return is_tracked(full);
}

static int full_path(int folder, const char *path, char *into) {
  if (*path == '/') {
    if (strlen(path) >= PATH_MAX) return 0;
    strcpy(into, path);
    return settle(into);
  }
  if (folder == AT_FDCWD) {
    if (!getcwd(into, PATH_MAX - 1)) return 0;
  } else if (!path_of(folder, into)) {
    return 0;
  }
  size_t bytes = strlen(into);
  if (bytes + strlen(path) + 2 >= PATH_MAX) return 0;
  into[bytes] = '/';
  strcpy(into + bytes + 1, path);
  return settle(into);
}

static int tracked_file(int file, char *path) {
  if (!page || !page->armed) return 0;
  int kept = errno;
  int found = path_of(file, path) && is_tracked(path);
  errno = kept;
  return found;
}

static uint64_t number_of(int file) {
  struct stat found;
  return fstat(file, &found) ? 0 : (uint64_t)found.st_ino;
}

static uint64_t mixed(uint64_t value) { /* splitmix64 */
  value += 0x9e3779b97f4a7c15ull;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

/* -1: go on; 0: a short write; else the errno to fail with. */
static int fate(int may_be_short) {
  static const int kinds[] = {EIO, ENOSPC, EROFS, 0};
  uint64_t turn = ++page->asked;
  int chosen;
  if (page->fail_at && turn >= page->fail_at && turn < page->fail_at + page->fail_times) {
    chosen = (int)page->fail_errno;
  } else {
    uint64_t drawn = mixed(page->seed * 1000003ull + turn);
    if (drawn % 1000000ull >= page->per_million) return -1;
    chosen = kinds[(drawn >> 32) % 4];
  }
  if (!chosen && !may_be_short) chosen = EIO;
  page->failed++;
  return chosen;
}

static void note(char kind, uint64_t file, uint64_t offset, const char *path, const char *other,
                 const struct iovec *data, int pieces, size_t bytes) {
  int kept = errno;
  page->count++;
  if (log_file >= 0) {
    struct record head = {(uint32_t)kind,        (uint32_t)strlen(path),
                          (uint32_t)strlen(other), (uint32_t)bytes, file, offset};
    struct iovec line[3] = {{&head, sizeof head},
                            {(void *)path, head.path_bytes},
                            {(void *)other, head.other_bytes}};
    syscall(SYS_writev, log_file, line, 3);
    for (int at = 0; at < pieces && bytes; at++) {
      size_t part = data[at].iov_len < bytes ? data[at].iov_len : bytes;
      syscall(SYS_write, log_file, data[at].iov_base, part);
      bytes -= part;
    }
  }
  if (page->pattern[0] && !page->begun) {
    for (int at = 0; at < pieces && !page->begun; at++)
      if (memmem(data[at].iov_base, data[at].iov_len, page->pattern, strlen(page->pattern)))
        page->begun = 1;
  } else if (kind != 'S') {
    page->begun++;
  }
  if (kind != 'S' && page->kill_at && page->begun == page->kill_at) {
    page->killed = 1;
    kill((pid_t)page->main, SIGKILL);
    raise(SIGKILL);
  }
  errno = kept;
}

/* --- opening ------------------------------------------------------------------------- */

static int do_open(int folder, const char *path, int flags, mode_t mode) {
  char full[PATH_MAX];
  if (!page || !page->armed || !(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE ||
      !full_path(folder, path, full))
    return syscall(SYS_openat, folder, path, flags, mode);
  enter();
  struct stat before;
  int was_there = !stat(full, &before);
  int opened;
  int what = !was_there || (flags & O_TRUNC) ? fate(0) : -1;
  if (what > 0) {
    errno = what;
    opened = -1;
  } else {
    opened = syscall(SYS_openat, folder, path, flags, mode);
  }
  if (opened >= 0 && !was_there)
    note('C', number_of(opened), 0, full, "", NULL, 0, 0);
  else if (opened >= 0 && (flags & O_TRUNC) && before.st_size)
    note('T', number_of(opened), 0, full, "", NULL, 0, 0);
  leave();
  return opened;
}

#define MODE(flags, last)              \
  mode_t mode = 0;                     \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list more;                      \
    va_start(more, last);              \
    mode = va_arg(more, mode_t);       \
    va_end(more);                      \
  }

int open(const char *path, int flags, ...) { MODE(flags, flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags, flags) return do_open(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags, flags) return do_open(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* --- writing and reading ------------------------------------------------------------- */

static ssize_t do_write(int file, const struct iovec *data, int pieces, off_t at) {
  char path[PATH_MAX];
  ssize_t done;
  if (!tracked_file(file, path))
    return at < 0 ? syscall(SYS_writev, file, data, pieces)
                  : syscall(SYS_pwritev, file, data, pieces, at, 0);
  enter();
  size_t first = pieces ? data[0].iov_len : 0;
  int what = fate(first > 1);
  struct iovec part = {pieces ? data[0].iov_base : NULL, first / 2};
  if (what > 0) {
    errno = what;
    leave();
    return -1;
  }
  if (what == 0) {
    data = &part;
    pieces = 1;
  }
  done = at < 0 ? syscall(SYS_writev, file, data, pieces)
                : syscall(SYS_pwritev, file, data, pieces, at, 0);
  if (done > 0) {
    off_t where = at < 0 ? lseek(file, 0, SEEK_CUR) - done : at;
    note('W', number_of(file), (uint64_t)where, path, "", data, pieces, (size_t)done);
  }
  leave();
  return done;
}

ssize_t write(int file, const void *data, size_t bytes) {
  struct iovec one = {(void *)data, bytes};
  if (!page || !page->armed) return syscall(SYS_write, file, data, bytes);
  char path[PATH_MAX];
  if (!tracked_file(file, path)) return syscall(SYS_write, file, data, bytes);
  return do_write(file, &one, 1, -1);
}
ssize_t pwrite(int file, const void *data, size_t bytes, off_t at) {
  struct iovec one = {(void *)data, bytes};
  return do_write(file, &one, 1, at);
}
ssize_t pwrite64(int file, const void *data, size_t bytes, off_t at) { return pwrite(file, data, bytes, at); }
ssize_t writev(int file, const struct iovec *data, int pieces) { return do_write(file, data, pieces, -1); }
ssize_t pwritev(int file, const struct iovec *data, int pieces, off_t at) { return do_write(file, data, pieces, at); }
ssize_t pwritev64(int file, const struct iovec *data, int pieces, off_t at) { return do_write(file, data, pieces, at); }

static int read_fails(int file) {
  char path[PATH_MAX];
  if (!page || !page->armed || !page->reads || !tracked_file(file, path)) return 0;
  enter();
  int what = fate(0);
  leave();
  if (what >= 0) errno = EIO;
  return what >= 0;
}
ssize_t read(int file, void *into, size_t bytes) {
  return read_fails(file) ? -1 : syscall(SYS_read, file, into, bytes);
}
ssize_t pread(int file, void *into, size_t bytes, off_t at) {
  return read_fails(file) ? -1 : syscall(SYS_pread64, file, into, bytes, at);
}
ssize_t pread64(int file, void *into, size_t bytes, off_t at) { return pread(file, into, bytes, at); }

/* --- sizes and syncs ------------------------------------------------------------------ */

static int do_file(int file, char kind, long call, uint64_t value) {
  char path[PATH_MAX];
  int done;
  if (!tracked_file(file, path)) return syscall(call, file, value);
  enter();
  int what = fate(0);
  if (what > 0) {
    errno = what;
    done = -1;
  } else {
    done = syscall(call, file, value);
    if (!done) note(kind, number_of(file), value, path, "", NULL, 0, 0);
  }
  leave();
  return done;
}
int fsync(int file) { return do_file(file, 'S', SYS_fsync, 0); }
int fdatasync(int file) { return do_file(file, 'S', SYS_fdatasync, 0); }
int ftruncate(int file, off_t bytes) { return do_file(file, 'T', SYS_ftruncate, (uint64_t)bytes); }
int ftruncate64(int file, off_t bytes) { return do_file(file, 'T', SYS_ftruncate, (uint64_t)bytes); }

int truncate(const char *path, off_t bytes) {
  int opened = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (opened < 0) return -1;
  int done = ftruncate(opened, bytes), kept = errno;
  close(opened);
  errno = kept;
  return done;
}
int truncate64(const char *path, off_t bytes) { return truncate(path, bytes); }

/* --- names ------------------------------------------------------------------------------ */

static int do_name(char kind, long call, int folder, const char *path, int to, const char *other,
                   unsigned flags) {
  char full[PATH_MAX], second[PATH_MAX] = "";
  int seen = page && page->armed && full_path(folder, path, full);
  if (seen && other) full_path(to, other, second);
  if (!seen)
    return other ? syscall(call, folder, path, to, other, flags)
                 : syscall(call, folder, path, flags);
  int done;
  enter();
  int what = fate(0);
  if (what > 0) {
    errno = what;
    done = -1;
  } else {
    done = other ? syscall(call, folder, path, to, other, flags)
                 : syscall(call, folder, path, flags);
    if (!done) note(kind, 0, 0, full, second, NULL, 0, 0);
  }
  leave();
  return done;
}
int rename(const char *from, const char *to) { return do_name('R', SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int folder, const char *from, int other, const char *to) { return do_name('R', SYS_renameat2, folder, from, other, to, 0); }
int renameat2(int folder, const char *from, int other, const char *to, unsigned flags) { return do_name('R', SYS_renameat2, folder, from, other, to, flags); }
int link(const char *from, const char *to) { return do_name('L', SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int folder, const char *from, int other, const char *to, int flags) { return do_name('L', SYS_linkat, folder, from, other, to, (unsigned)flags); }
int symlinkat(const char *text, int folder, const char *path) {
  char full[PATH_MAX];
  if (!page || !page->armed || !full_path(folder, path, full))
    return syscall(SYS_symlinkat, text, folder, path);
  int done = -1;
  enter();
  int what = fate(0);
  if (what > 0) {
    errno = what;
  } else {
    done = syscall(SYS_symlinkat, text, folder, path);
    struct iovec leads = {(void *)text, strlen(text)};
    if (!done) note('Y', 0, 0, full, "", &leads, 1, strlen(text));
  }
  leave();
  return done;
}
int symlink(const char *text, const char *path) { return symlinkat(text, AT_FDCWD, path); }
int unlink(const char *path) { return do_name('U', SYS_unlinkat, AT_FDCWD, path, 0, NULL, 0); }
int unlinkat(int folder, const char *path, int flags) { return do_name('U', SYS_unlinkat, folder, path, 0, NULL, (unsigned)flags); }
int rmdir(const char *path) { return do_name('U', SYS_unlinkat, AT_FDCWD, path, 0, NULL, AT_REMOVEDIR); }
int mkdir(const char *path, mode_t mode) { return do_name('D', SYS_mkdirat, AT_FDCWD, path, 0, NULL, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return do_name('D', SYS_mkdirat, folder, path, 0, NULL, mode); }
