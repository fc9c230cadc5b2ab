/* Makes the Nth file-system call below some directories fail; preloaded, and controlled through a shared file.

   Every process that is started with LD_PRELOAD and FAULTS_CONTROL counts in the same file, so N goes through a command
   with all its workers. Reading (open for reading) counts only where `reads` is set: no disk is too full to be read. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct control { /* as in shim.py */
    int armed, at, error, for_good, reads, calls, hits, pad;
    char kind[32]; /* the first call that failed */
    char roots[2][PATH_MAX];
};
static struct control *control;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? REAL(open)(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    if (mapped != MAP_FAILED) control = mapped;
}

static int below(const char *path) {
    for (int i = 0; i < 2; i++) {
        size_t length = strlen(control->roots[i]);
        if (length && !strncmp(path, control->roots[i], length) && (path[length] == '/' || !path[length])) return 1;
    }
    return 0;
}

static int of_descriptor(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return path[0] == '/';
}

static int fails(const char *kind) {
    int number = __sync_add_and_fetch(&control->calls, 1);
    if (number != control->at && !(control->for_good && control->at && number > control->at)) return 0;
    if (__sync_add_and_fetch(&control->hits, 1) == 1) strncpy(control->kind, kind, sizeof control->kind - 1);
    errno = control->error;
    return 1;
}

static int armed(void) { return control && control->armed; }

static int path_fails(const char *kind, int directory, const char *path) {
    char whole[2 * PATH_MAX], base[PATH_MAX];
    if (!armed() || !path) return 0;
    if (path[0] != '/') {
        int known = directory == AT_FDCWD ? getcwd(base, sizeof base) != NULL : of_descriptor(directory, base);
        if (!known) return 0;
        snprintf(whole, sizeof whole, "%s/%s", base, path);
        path = whole;
    }
    return below(path) && fails(kind);
}

static int descriptor_fails(const char *kind, int fd) {
    char path[PATH_MAX];
    int kept = errno;
    if (!armed() || !of_descriptor(fd, path) || !below(path)) return errno = kept, 0;
    return errno = kept, fails(kind);
}

static int open_fails(int directory, const char *path, int flags) {
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
    return armed() && (writes || control->reads) && path_fails(writes ? "open" : "open to read", directory, path);
}

#define MODE(last) va_list rest; va_start(rest, last); \
    mode_t mode = (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) ? va_arg(rest, mode_t) : 0; va_end(rest)
#define OPEN(name) int name(const char *path, int flags, ...) { MODE(flags); \
    return open_fails(AT_FDCWD, path, flags) ? -1 : REAL(name)(path, flags, mode); }
#define OPENAT(name) int name(int directory, const char *path, int flags, ...) { MODE(flags); \
    return open_fails(directory, path, flags) ? -1 : REAL(name)(directory, path, flags, mode); }
#define CREAT(name) int name(const char *path, mode_t mode) { \
    return path_fails("open", AT_FDCWD, path) ? -1 : REAL(name)(path, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) CREAT(creat) CREAT(creat64)

#define STREAM(name) FILE *name(const char *path, const char *mode) { \
    int flags = strpbrk(mode, "wa+") ? O_WRONLY : O_RDONLY; \
    return open_fails(AT_FDCWD, path, flags) ? NULL : REAL(name)(path, mode); }
STREAM(fopen) STREAM(fopen64)

#define ON_DESCRIPTOR(type, name, kind, parameters, arguments) \
    type name parameters { return descriptor_fails(kind, fd) ? -1 : REAL(name) arguments; }
ON_DESCRIPTOR(ssize_t, write, "write", (int fd, const void *data, size_t size), (fd, data, size))
ON_DESCRIPTOR(ssize_t, pwrite, "write", (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_DESCRIPTOR(ssize_t, pwrite64, "write", (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_DESCRIPTOR(ssize_t, writev, "write", (int fd, const struct iovec *parts, int count), (fd, parts, count))
ON_DESCRIPTOR(int, fsync, "fsync", (int fd), (fd))
ON_DESCRIPTOR(int, fdatasync, "fsync", (int fd), (fd))
ON_DESCRIPTOR(int, ftruncate, "truncate", (int fd, off_t size), (fd, size))
ON_DESCRIPTOR(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size))

/* A stream writes inside libc, past any shim: the call that fills it stands for that. */
size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    return descriptor_fails("write", fileno(file)) ? 0 : REAL(fwrite)(data, size, count, file);
}

/* The file is closed all the same, as the kernel does it. */
int close(int fd) {
    int flags = armed() ? fcntl(fd, F_GETFL) : -1;
    int failed = flags != -1 && (flags & O_ACCMODE) != O_RDONLY && descriptor_fails("close", fd);
    int status = REAL(close)(fd);
    return failed ? (errno = control->error, -1) : status;
}

#define TO_PATH(name, kind, where, parameters, arguments) \
    int name parameters { return path_fails(kind, where) ? -1 : REAL(name) arguments; }
#define HERE AT_FDCWD, to
#define THERE into, to
TO_PATH(rename, "rename", HERE, (const char *from, const char *to), (from, to))
TO_PATH(link, "link", HERE, (const char *from, const char *to), (from, to))
TO_PATH(unlink, "unlink", HERE, (const char *to), (to))
TO_PATH(rmdir, "unlink", HERE, (const char *to), (to))
TO_PATH(mkdir, "mkdir", HERE, (const char *to, mode_t mode), (to, mode))
TO_PATH(mkdirat, "mkdir", THERE, (int into, const char *to, mode_t mode), (into, to, mode))
TO_PATH(unlinkat, "unlink", THERE, (int into, const char *to, int flags), (into, to, flags))
TO_PATH(renameat, "rename", THERE, (int out, const char *from, int into, const char *to), (out, from, into, to))
TO_PATH(renameat2, "rename", THERE, (int out, const char *from, int into, const char *to, unsigned flags),
        (out, from, into, to, flags))
TO_PATH(linkat, "link", THERE, (int out, const char *from, int into, const char *to, int flags),
        (out, from, into, to, flags))
