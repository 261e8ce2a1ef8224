/* Loaded into the engine (LD_PRELOAD): writes down what it does to the files of one folder, and can make
 * the disk fail. Linux only.
 *
 *   DISK_FOLDER   the folder; an absolute path
 *   DISK_TRACE    where the trace is appended, if there is to be one
 *   DISK_CONTROL  a FIFO with commands, one letter each: n, r, i (from now on writes, truncations, syncs and
 *                 creations fail with ENOSPC, EROFS, EIO), s (syncs alone fail, with EIO), d, w (those of the
 *                 data file, or of SQLite's log), o (all is done again), k (dies by SIGKILL)
 *
 * The order of the trace is what proves something: a write is noted when it was done, a sync when it begins
 * and when it was done. So a sync covers the writes that were noted before its beginning, and what a client
 * was told because of a sync was told after the note of its end. No call is under way, noted or not, when
 * the process dies on command.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES 65536

struct note {
  uint64_t time_ns;
  uint64_t offset;
  uint32_t length;
  int32_t fd;
  uint32_t number;
  char op;
  char flag;
  char pad[2];
};

static char folder[4096];
static size_t folder_length;
static int trace = -1;
/* What a descriptor is of: 0 for a file elsewhere, 'd' the data file, 'w' SQLite's log, '-' another one. */
static char known[FILES];
/* The kind of file whose syncs fail, 's' for all. */
static volatile char failing_syncs;
static volatile int failure;
static uint32_t syncs;
static pthread_mutex_t noting = PTHREAD_MUTEX_INITIALIZER;
/* Held shared by calls, exclusively by death. */
static pthread_rwlock_t alive = PTHREAD_RWLOCK_INITIALIZER;

#define REAL(type, name, ...)                            \
  static type (*real)(__VA_ARGS__);                      \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void note(char op, char flag, int fd, uint64_t offset, uint32_t number, const void *data, uint32_t length) {
  if (trace < 0) return;
  struct timespec now;
  pthread_mutex_lock(&noting);
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct note head = {now.tv_sec * 1000000000ull + now.tv_nsec, offset, length, fd, number, op, flag, {0, 0}};
  struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
  if (syscall(SYS_writev, trace, parts, length ? 2 : 1) != (long)(sizeof head + length)) {
    fprintf(stderr, "the trace cannot be written: %s\n", strerror(errno));
    abort();
  }
  pthread_mutex_unlock(&noting);
}

static int inside(const char *path) {
  return folder_length && !strncmp(path, folder, folder_length) &&
         (path[folder_length] == '/' || !path[folder_length]);
}

static int is_known(int fd) { return fd >= 0 && fd < FILES && known[fd]; }

/* Whether a call is to fail; says why. */
static int fails(void) {
  if (failure) errno = failure;
  return failure != 0;
}

static void *obey(void *path) {
  for (;;) {
    int control = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    char command;
    while (control >= 0 && syscall(SYS_read, control, &command, 1) == 1) {
      if (command == 'n') failure = ENOSPC;
      if (command == 'r') failure = EROFS;
      if (command == 'i') failure = EIO;
      if (command == 's' || command == 'd' || command == 'w') failing_syncs = command;
      if (command == 'o') failure = failing_syncs = 0;
      if (command == 'k') {
        pthread_rwlock_wrlock(&alive);
        kill(getpid(), SIGKILL);
      }
    }
    if (control < 0) return NULL;
    syscall(SYS_close, control);
  }
}

__attribute__((constructor)) static void begin(void) {
  const char *name = getenv("DISK_FOLDER");
  if (!name) return;
  snprintf(folder, sizeof folder, "%s", name);
  folder_length = strlen(folder);
  if ((name = getenv("DISK_TRACE"))) {
    trace = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (trace < 0) abort();
    note('p', 0, -1, 0, 0, NULL, 0);
  }
  if ((name = getenv("DISK_CONTROL"))) {
    pthread_t thread;
    pthread_create(&thread, NULL, obey, (void *)name);
  }
}

/* Files. */

static int ends_with(const char *path, const char *end) {
  size_t length = strlen(path), wanted = strlen(end);
  return length >= wanted && !strcmp(path + length - wanted, end);
}

static char kind(const char *path) { return ends_with(path, ".db") ? 'd' : ends_with(path, ".db-wal") ? 'w' : '-'; }

static int open_with(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
  if (!inside(path)) return real(path, flags, mode);
  pthread_rwlock_rdlock(&alive);
  struct stat before;
  int there = !stat(path, &before);
  int fd = -1;
  if ((there && !(flags & O_TRUNC)) || !(flags & (O_CREAT | O_TRUNC)) || !fails()) {
    /* One after the other, so that notes of descriptors are in order. */
    static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&opening);
    fd = real(path, flags, mode);
    if (fd >= 0 && fd < FILES) {
      known[fd] = kind(path);
      char created = !there && (flags & O_CREAT), emptied = (flags & O_TRUNC) != 0;
      note('o', (char)(created | emptied << 1), fd, 0, 0, path, (uint32_t)strlen(path));
    }
    int why = errno;
    pthread_mutex_unlock(&opening);
    errno = why;
  }
  pthread_rwlock_unlock(&alive);
  return fd;
}

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

int open(const char *path, int flags, ...) {
  REAL(int, "open", const char *, int, ...);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return open_with(real, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  REAL(int, "open64", const char *, int, ...);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return open_with(real, path, flags, mode);
}

int close(int fd) {
  REAL(int, "close", int);
  if (is_known(fd)) {
    known[fd] = 0;
    note('c', 0, fd, 0, 0, NULL, 0);
  }
  return real(fd);
}

/* What changes them. */

static ssize_t write_at(int fd, const void *data, size_t length, off64_t offset) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  if (!is_known(fd)) return real(fd, data, length, offset);
  pthread_rwlock_rdlock(&alive);
  ssize_t done = fails() ? -1 : real(fd, data, length, offset);
  int why = errno;
  if (done > 0) note('w', 0, fd, (uint64_t)offset, 0, data, (uint32_t)done);
  pthread_rwlock_unlock(&alive);
  errno = why;
  return done;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return write_at(fd, data, length, offset); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return write_at(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
  REAL(ssize_t, "write", int, const void *, size_t);
  if (!is_known(fd)) return real(fd, data, length);
  pthread_rwlock_rdlock(&alive);
  off64_t offset = lseek64(fd, 0, SEEK_CUR);
  ssize_t done = fails() ? -1 : real(fd, data, length);
  int why = errno;
  if (done > 0) note('w', 0, fd, (uint64_t)offset, 0, data, (uint32_t)done);
  pthread_rwlock_unlock(&alive);
  errno = why;
  return done;
}

int ftruncate64(int fd, off64_t size) {
  REAL(int, "ftruncate64", int, off64_t);
  if (!is_known(fd)) return real(fd, size);
  pthread_rwlock_rdlock(&alive);
  int done = fails() ? -1 : real(fd, size);
  int why = errno;
  if (!done) note('t', 0, fd, (uint64_t)size, 0, NULL, 0);
  pthread_rwlock_unlock(&alive);
  errno = why;
  return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_with(int (*real)(int), int fd) {
  if (!is_known(fd)) return real(fd);
  pthread_rwlock_rdlock(&alive);
  uint32_t number = __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
  note('b', 0, fd, 0, number, NULL, 0);
  int done = -1;
  char failing = failing_syncs;
  if (failing == 's' || failing == known[fd])
    errno = EIO;
  else if (!fails())
    done = real(fd);
  int why = errno;
  note(done ? 'f' : 'e', 0, fd, 0, number, NULL, 0);
  pthread_rwlock_unlock(&alive);
  errno = why;
  return done;
}

int fsync(int fd) {
  REAL(int, "fsync", int);
  return sync_with(real, fd);
}

int fdatasync(int fd) {
  REAL(int, "fdatasync", int);
  return sync_with(real, fd);
}

/* Names. */

static void note_names(char op, const char *first, const char *second) {
  char names[8192];
  int length = snprintf(names, sizeof names, "%s%c%s", first, 0, second);
  note(op, 0, -1, 0, 0, names, (uint32_t)length);
}

int unlink(const char *path) {
  REAL(int, "unlink", const char *);
  if (!inside(path)) return real(path);
  pthread_rwlock_rdlock(&alive);
  int done = real(path);
  int why = errno;
  if (!done) note_names('u', path, "");
  pthread_rwlock_unlock(&alive);
  errno = why;
  return done;
}

int rename(const char *from, const char *to) {
  REAL(int, "rename", const char *, const char *);
  if (!inside(from) && !inside(to)) return real(from, to);
  pthread_rwlock_rdlock(&alive);
  int done = fails() ? -1 : real(from, to);
  int why = errno;
  if (!done) note_names('r', from, to);
  pthread_rwlock_unlock(&alive);
  errno = why;
  return done;
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
  REAL(int, "linkat", int, const char *, int, const char *, int);
  if (!inside(to)) return real(from_folder, from, to_folder, to, flags);
  pthread_rwlock_rdlock(&alive);
  int done = fails() ? -1 : real(from_folder, from, to_folder, to, flags);
  int why = errno;
  if (!done) note_names('l', from, to);
  pthread_rwlock_unlock(&alive);
  errno = why;
  return done;
}
