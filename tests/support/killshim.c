/* Preloaded into a process: at its n-th system call that changes files below a folder, kill it or let the call fail.
 *
 * shim_arm(folder, at, way, error, kinds) starts the count. Only calls of the given kinds on paths below the folder
 * count. A call that a fault is due at is carried out not at all, or by half where it moves bytes and the way says so.
 * Syncing calls do nothing while armed: a kill, other than a power cut, loses nothing that the kernel has taken.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = 0, KILL_TORN = 1, FAIL = 2, FAIL_TORN = 3, FAIL_ONCE = 4, HALF_ONCE = 5 };
/* bytes, new names, names taken away, syncing, opening to write (which changes nothing, but can be refused) */
enum { DATA = 1, MAKE = 2, REMOVE = 4, SYNC = 8, OPEN = 16 };

static char folder[PATH_MAX];
static size_t folder_length;
static long at, count;
static int way, failure, kinds, armed, half_done;

#define NAMES 40
static const char *names[NAMES];
static long counts[NAMES];

void shim_arm(const char *path, long number, int how, int error, int which)
{
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    at = number, way = how, failure = error, kinds = which;
    count = 0, half_done = 0, armed = 1;
    memset(counts, 0, sizeof counts);
}

long shim_disarm(void)
{
    armed = 0;
    return count;
}

/* How often calls of a name were counted. */
long shim_counted(const char *name)
{
    for (int i = 0; i < NAMES && names[i]; i++)
        if (!strcmp(names[i], name))
            return counts[i];
    return 0;
}

static int below(const char *path)
{
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static int of_fd(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

static int of_path(int directory, const char *path)
{
    return path[0] == '/' || directory == AT_FDCWD ? below(path) : of_fd(directory);
}

/* Count a call; 0: carry it out, 1: refuse it, 2: carry out half of it. */
static int due(const char *name, int kind, int inside, int divisible)
{
    if (!armed || !inside || !(kind & kinds))
        return 0;
    count++;
    for (int i = 0; i < NAMES; i++)
        if (!names[i] || !strcmp(names[i], name)) {
            names[i] = name;
            counts[i]++;
            break;
        }
    if (!at || count < at)
        return 0;
    switch (way) {
    case KILL:
        kill(getpid(), SIGKILL);
        return 1;
    case KILL_TORN:
        if (divisible)
            return 2;
        kill(getpid(), SIGKILL);
        return 1;
    case FAIL_TORN:
        if (divisible && !half_done) {
            half_done = 1;
            return 2;
        }
        return 1;
    case FAIL:
        return 1;
    case FAIL_ONCE:
        return count == at;
    case HALF_ONCE:
        return count == at && divisible ? 2 : 0;
    }
    return 0;
}

static void after_half(void)
{
    if (way == KILL_TORN)
        kill(getpid(), SIGKILL);
}

#define REAL(name)                                                                                                     \
    static __typeof__(&name) real;                                                                                     \
    if (!real)                                                                                                         \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define REFUSE                                                                                                         \
    do {                                                                                                               \
        errno = failure;                                                                                               \
        return -1;                                                                                                     \
    } while (0)

/* --- bytes */

#define MOVES_BYTES(name, parameters, fd, size, whole, half)                                                           \
    ssize_t name parameters                                                                                            \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        int fault = due(#name, DATA, armed && of_fd(fd), (size) > 1);                                                  \
        if (fault == 1)                                                                                                \
            REFUSE;                                                                                                    \
        if (fault == 2) {                                                                                              \
            ssize_t done = real half;                                                                                  \
            after_half();                                                                                              \
            return done;                                                                                               \
        }                                                                                                              \
        return real whole;                                                                                             \
    }

MOVES_BYTES(write, (int fd, const void *data, size_t size), fd, size, (fd, data, size), (fd, data, size / 2))
MOVES_BYTES(pwrite, (int fd, const void *data, size_t size, off_t offset), fd, size, (fd, data, size, offset),
            (fd, data, size / 2, offset))
MOVES_BYTES(pwrite64, (int fd, const void *data, size_t size, off64_t offset), fd, size, (fd, data, size, offset),
            (fd, data, size / 2, offset))
/* of several buffers, half are those in front; of one, half of it */
static struct iovec cut;
static const struct iovec *half_of(const struct iovec *parts, int number)
{
    cut = parts[0];
    if (number == 1)
        cut.iov_len /= 2;
    return number > 1 ? parts : &cut;
}
#define HALF(number) ((number) > 1 ? (number) / 2 : 1)
MOVES_BYTES(writev, (int fd, const struct iovec *parts, int number), fd, 2, (fd, parts, number),
            (fd, half_of(parts, number), HALF(number)))
MOVES_BYTES(pwritev, (int fd, const struct iovec *parts, int number, off_t offset), fd, 2, (fd, parts, number, offset),
            (fd, half_of(parts, number), HALF(number), offset))
MOVES_BYTES(pwritev64, (int fd, const struct iovec *parts, int number, off64_t offset), fd, 2,
            (fd, parts, number, offset), (fd, half_of(parts, number), HALF(number), offset))
MOVES_BYTES(pwritev2, (int fd, const struct iovec *parts, int number, off_t offset, int flags), fd, 2,
            (fd, parts, number, offset, flags), (fd, half_of(parts, number), HALF(number), offset, flags))
MOVES_BYTES(pwritev64v2, (int fd, const struct iovec *parts, int number, off64_t offset, int flags), fd, 2,
            (fd, parts, number, offset, flags), (fd, half_of(parts, number), HALF(number), offset, flags))
MOVES_BYTES(copy_file_range, (int from, off64_t *start, int fd, off64_t *offset, size_t size, unsigned flags), fd, size,
            (from, start, fd, offset, size, flags), (from, start, fd, offset, size / 2, flags))
#define SENDS(name, offset_type)                                                                                       \
    ssize_t name(int fd, int from, offset_type *start, size_t size);                                                   \
    MOVES_BYTES(name, (int fd, int from, offset_type *start, size_t size), fd, size, (fd, from, start, size),          \
                (fd, from, start, size / 2))
SENDS(sendfile, off_t)
SENDS(sendfile64, off64_t)

/* --- calls that are carried out whole or not at all */

#define WHOLE(name, kind, parameters, inside, arguments)                                                               \
    int name parameters                                                                                                \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        if (due(#name, kind, armed && (inside), 0))                                                                    \
            REFUSE;                                                                                                    \
        return real arguments;                                                                                         \
    }

WHOLE(ftruncate, DATA, (int fd, off_t size), of_fd(fd), (fd, size))
WHOLE(ftruncate64, DATA, (int fd, off64_t size), of_fd(fd), (fd, size))
WHOLE(truncate, DATA, (const char *path, off_t size), below(path), (path, size))
WHOLE(truncate64, DATA, (const char *path, off64_t size), below(path), (path, size))
WHOLE(fallocate, DATA, (int fd, int mode, off_t offset, off_t size), of_fd(fd), (fd, mode, offset, size))
WHOLE(fallocate64, DATA, (int fd, int mode, off64_t offset, off64_t size), of_fd(fd), (fd, mode, offset, size))
WHOLE(rename, MAKE, (const char *from, const char *to), below(from) || below(to), (from, to))
WHOLE(renameat, MAKE, (int d, const char *from, int e, const char *to), of_path(d, from) || of_path(e, to),
      (d, from, e, to))
WHOLE(renameat2, MAKE, (int d, const char *from, int e, const char *to, unsigned flags),
      of_path(d, from) || of_path(e, to), (d, from, e, to, flags))
WHOLE(link, MAKE, (const char *from, const char *to), below(to), (from, to))
WHOLE(linkat, MAKE, (int d, const char *from, int e, const char *to, int flags), of_path(e, to), (d, from, e, to, flags))
WHOLE(symlink, MAKE, (const char *target, const char *path), below(path), (target, path))
WHOLE(symlinkat, MAKE, (const char *target, int d, const char *path), of_path(d, path), (target, d, path))
WHOLE(mkdir, MAKE, (const char *path, mode_t mode), below(path), (path, mode))
WHOLE(mkdirat, MAKE, (int d, const char *path, mode_t mode), of_path(d, path), (d, path, mode))
WHOLE(unlink, REMOVE, (const char *path), below(path), (path))
WHOLE(unlinkat, REMOVE, (int d, const char *path, int flags), of_path(d, path), (d, path, flags))
WHOLE(rmdir, REMOVE, (const char *path), below(path), (path))
WHOLE(remove, REMOVE, (const char *path), below(path), (path))

int posix_fallocate(int fd, off_t offset, off_t size)
{
    REAL(posix_fallocate);
    return due("posix_fallocate", DATA, armed && of_fd(fd), 0) ? failure : real(fd, offset, size);
}

int posix_fallocate64(int fd, off64_t offset, off64_t size)
{
    REAL(posix_fallocate64);
    return due("posix_fallocate64", DATA, armed && of_fd(fd), 0) ? failure : real(fd, offset, size);
}

#define SYNCS(name)                                                                                                    \
    int name(int fd)                                                                                                   \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        int inside = armed && of_fd(fd);                                                                               \
        if (due(#name, SYNC, inside, 0))                                                                               \
            REFUSE;                                                                                                    \
        return inside ? 0 : real(fd);                                                                                  \
    }

SYNCS(fsync)
SYNCS(fdatasync)

/* --- opening */

#define KIND_OF(flags) ((flags) & (O_CREAT | O_TRUNC) ? MAKE : (flags) & O_ACCMODE ? OPEN : 0)
#define MODE_OF(flags)                                                                                                 \
    mode_t mode = 0;                                                                                                   \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {                                                   \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode = va_arg(more, mode_t);                                                                                   \
        va_end(more);                                                                                                  \
    }

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        MODE_OF(flags)                                                                                                 \
        if (due(#name, KIND_OF(flags), armed && below(path), 0))                                              \
            REFUSE;                                                                                                    \
        return real(path, flags, mode);                                                                                \
    }
#define OPENSAT(name)                                                                                                  \
    int name(int d, const char *path, int flags, ...)                                                                  \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        MODE_OF(flags)                                                                                                 \
        if (due(#name, KIND_OF(flags), armed && of_path(d, path), 0))                                         \
            REFUSE;                                                                                                    \
        return real(d, path, flags, mode);                                                                             \
    }

OPENS(open)
OPENS(open64)
OPENSAT(openat)
OPENSAT(openat64)
