// Preloaded where nothing can be mounted: a disk that is full. What is written to files below FULL_DISK_FOLDER takes
// from a 64-bit number of bytes, mapped from the file FULL_DISK_ROOM; beyond it writes are short, then ENOSPC.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static _Atomic int64_t *room;
static const char *folder;

__attribute__((constructor)) static void begin(void) {
  folder = getenv("FULL_DISK_FOLDER");
  const int file = open(getenv("FULL_DISK_ROOM"), O_RDWR | O_CLOEXEC);
  void *map = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *room, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map == MAP_FAILED) abort();
  room = map;
  close(file);
}

static int is_below(int file) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  const size_t wanted = strlen(folder);
  return size > (ssize_t)wanted && strncmp(path, folder, wanted) == 0 && path[wanted] == '/';
}

// How many of `size` bytes there is room for; -1 with ENOSPC if for none.
static ssize_t take(int file, size_t size) {
  if (size == 0 || !is_below(file)) return (ssize_t)size;
  int64_t left = atomic_load(room), taken;
  do {
    taken = left < (int64_t)size ? left : (int64_t)size;
    if (taken <= 0) {
      errno = ENOSPC;
      return -1;
    }
  } while (!atomic_compare_exchange_weak(room, &left, left - taken));
  return (ssize_t)taken;
}

ssize_t write(int file, const void *data, size_t size) {
  static ssize_t (*next)(int, const void *, size_t);
  if (next == NULL) *(void **)&next = dlsym(RTLD_NEXT, "write");
  const ssize_t taken = take(file, size);
  return taken < 0 ? taken : next(file, data, (size_t)taken);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
  static ssize_t (*next)(int, const void *, size_t, off64_t);
  if (next == NULL) *(void **)&next = dlsym(RTLD_NEXT, "pwrite64");
  const ssize_t taken = take(file, size);
  return taken < 0 ? taken : next(file, data, (size_t)taken, at);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return pwrite64(file, data, size, at); }

// Of what the C++ library's streams write.
ssize_t writev(int file, const struct iovec *parts, int count) {
  ssize_t written = 0;
  for (int i = 0; i < count; ++i) {
    if (parts[i].iov_len == 0) continue;
    const ssize_t now = write(file, parts[i].iov_base, parts[i].iov_len);
    if (now < 0) return written > 0 ? written : now;
    written += now;
    if ((size_t)now < parts[i].iov_len) break;
  }
  return written;
}
