/* Lets calls on some files fail: those whose path holds FAILING_PATH, while FAILING_ON is there.
   FAILING_CALLS names them (stat, open, read, write, flock, fsync), FAILING_ERRNO is what they fail with. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int fails(const char *call, const char *path) {
    const char *calls = getenv("FAILING_CALLS"), *part = getenv("FAILING_PATH");
    if (!path || !calls || !strstr(calls, call) || !part || !strstr(path, part)) return 0;
    if (access(getenv("FAILING_ON"), F_OK)) return 0;
    errno = atoi(getenv("FAILING_ERRNO"));
    return 1;
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = dlsym(RTLD_NEXT, #name)

int stat(const char *path, struct stat *s) { NEXT(stat); return fails("stat", path) ? -1 : next(path, s); }
int stat64(const char *path, struct stat64 *s) { NEXT(stat64); return fails("stat", path) ? -1 : next(path, s); }
int fstatat(int d, const char *path, struct stat *s, int f) { NEXT(fstatat); return fails("stat", path) ? -1 : next(d, path, s, f); }
int fstatat64(int d, const char *path, struct stat64 *s, int f) { NEXT(fstatat64); return fails("stat", path) ? -1 : next(d, path, s, f); }

#define MODE(flags) int mode = 0; if ((flags) & O_CREAT) { va_list a; va_start(a, flags); mode = va_arg(a, int); va_end(a); }

int open(const char *path, int flags, ...) { NEXT(open); MODE(flags); return fails("open", path) ? -1 : next(path, flags, mode); }
int open64(const char *path, int flags, ...) { NEXT(open64); MODE(flags); return fails("open", path) ? -1 : next(path, flags, mode); }

static int fails_on(const char *call, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return fails(call, path);
}

ssize_t read(int fd, void *buffer, size_t size) { NEXT(read); return fails_on("read", fd) ? -1 : next(fd, buffer, size); }
ssize_t write(int fd, const void *buffer, size_t size) { NEXT(write); return fails_on("write", fd) ? -1 : next(fd, buffer, size); }
int flock(int fd, int how) { NEXT(flock); return fails_on("flock", fd) ? -1 : next(fd, how); }
int fsync(int fd) { NEXT(fsync); return fails_on("fsync", fd) ? -1 : next(fd); }
