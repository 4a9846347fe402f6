/* Faults at the calls that a program makes of libc, for LD_PRELOAD: see __init__.py, which writes the rules.
 *
 * FASTCLIP_FAULTS holds a rule a line: call, first, last, action, value and pattern, with tabs between them. A rule
 * strikes at calls number first to last (0: without end) on paths that match the pattern as fnmatch(3) understands it.
 * The calls are counted in FASTCLIP_FAULTS_COUNTS, which all processes of a command share: "the third read" is the
 * third of them all. With FASTCLIP_FAULTS_LOG, each call that a rule matches adds a line there.
 *
 * strace can do much of this, but slows every call down, counts for each process by itself, and cannot wait for a test.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_RULES = 32, MAX_PATH = 4096 };
static const char *const CALLS[] = {"open",   "read",   "write", "mmap",  "stat",  "link",
                                    "rename", "unlink", "mkdir", "fsync", "close", "list"};
enum call { OPEN, READ, WRITE, MMAP, STAT, LINK, RENAME, UNLINK, MKDIR, FSYNC, CLOSE, LIST };

struct rule {
    enum call call;
    unsigned long first, last;
    char action[8], value[MAX_PATH], pattern[MAX_PATH];
};
static struct rule rules[MAX_RULES];
static int rules_given;
static unsigned asked_calls; /* one bit a call: what no rule asks for costs nothing */
static unsigned long *counts;

/* Reads the rules anew; a program that forks calls it in the child. */
__attribute__((constructor)) void read_rules(void) {
    rules_given = asked_calls = 0;
    const char *text = getenv("FASTCLIP_FAULTS"), *counts_path = getenv("FASTCLIP_FAULTS_COUNTS");
    int file = counts_path ? syscall(SYS_openat, AT_FDCWD, counts_path, O_RDWR | O_CLOEXEC) : -1;
    if (!text || file < 0) return;
    counts = (void *)syscall(SYS_mmap, 0, sizeof(long) * MAX_RULES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (counts == MAP_FAILED) return;
    for (; *text && rules_given < MAX_RULES; text += strcspn(text, "\n"), text += *text == '\n') {
        struct rule *rule = &rules[rules_given];
        rule->call = OPEN;
        char call[8];
        if (sscanf(text, "%7[^\t]\t%lu\t%lu\t%7[^\t]\t%4095[^\t]\t%4095[^\n]", call, &rule->first, &rule->last,
                   rule->action, rule->value, rule->pattern) != 6)
            abort(); /* a test that has no effect must not pass */
        while (strcmp(CALLS[rule->call], call))
            if (++rule->call > LIST) abort();
        asked_calls |= 1u << rule->call;
        rules_given++;
    }
}

static void log_call(enum call call, unsigned long number, const char *path) {
    char line[MAX_PATH + 64];
    const char *log = getenv("FASTCLIP_FAULTS_LOG");
    if (!log) return;
    /* Opened each time: a program may close all descriptors, and the number would soon be another file's. */
    int file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    int size = snprintf(line, sizeof line, "%s\t%lu\t%s\n", CALLS[call], number, path);
    syscall(SYS_write, file, line, size < (int)sizeof line ? size : (int)sizeof line);
    syscall(SYS_close, file);
}

static void hold(const char *marker) {
    syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, marker, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    for (int turn = 0; turn < 60000 && !access(marker, F_OK); turn++) usleep(2000); /* two minutes at most */
}

/* Does to a call what the rules say. 0: fail with errno as it stands now. `size` may become smaller. */
static int allowed(enum call call, const char *path, size_t *size) {
    int before = errno;
    for (int number = 0; number < rules_given; number++) {
        struct rule *rule = &rules[number];
        if (rule->call != call || fnmatch(rule->pattern, path, 0)) continue;
        unsigned long turn = __atomic_add_fetch(&counts[number], 1, __ATOMIC_SEQ_CST);
        log_call(call, turn, path);
        if (turn < rule->first || (rule->last && turn > rule->last)) continue;
        if (!strcmp(rule->action, "fail")) return errno = atoi(rule->value), 0;
        if (!strcmp(rule->action, "short") && size && *size > strtoul(rule->value, 0, 10)) *size = atol(rule->value);
        if (!strcmp(rule->action, "delay")) usleep(1000 * atoi(rule->value));
        if (!strcmp(rule->action, "signal")) syscall(SYS_kill, getpid(), atoi(rule->value));
        if (!strcmp(rule->action, "hold")) hold(rule->value);
    }
    errno = before;
    return 1;
}

static int allowed_path(enum call call, int folder, const char *path) {
    char whole[2 * MAX_PATH] = "", link[64];
    if (!(asked_calls & 1u << call) || !path) return 1;
    int before = errno;
    if (*path != '/') {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, whole, MAX_PATH);
        if (size > 0) whole[size] = '/', whole[size + 1] = 0;
    }
    strncat(whole, path, MAX_PATH - 1);
    errno = before;
    return allowed(call, whole, 0);
}

static int allowed_file(enum call call, int file, size_t *size) {
    char link[64], path[MAX_PATH];
    if (!(asked_calls & 1u << call) || file < 0) return 1;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, MAX_PATH - 1);
    errno = before;
    if (length <= 0 || *path != '/') return 1; /* a pipe, a socket */
    path[length] = 0;
    return allowed(call, path, size);
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define ON_PATH(type, name, parameters, call, folder, path, failed, arguments) \
    type name parameters { REAL(name); return allowed_path(call, folder, path) ? real arguments : failed; }
#define ON_FILE(type, name, parameters, call, file, size, failed, arguments) \
    type name parameters { REAL(name); return allowed_file(call, file, size) ? real arguments : failed; }
#define ON_OPEN(name) int name(const char *path, int flags, ...) { \
    REAL(name); va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
    return allowed_path(OPEN, AT_FDCWD, path) ? real(path, flags, mode) : -1; }
#define ON_OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    REAL(name); va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
    return allowed_path(OPEN, folder, path) ? real(folder, path, flags, mode) : -1; }

ON_OPEN(open) ON_OPEN(open64) ON_OPENAT(openat) ON_OPENAT(openat64)
ON_PATH(FILE *, fopen, (const char *path, const char *mode), OPEN, AT_FDCWD, path, NULL, (path, mode))
ON_PATH(FILE *, fopen64, (const char *path, const char *mode), OPEN, AT_FDCWD, path, NULL, (path, mode))
ON_FILE(ssize_t, read, (int f, void *to, size_t n), READ, f, &n, -1, (f, to, n))
ON_FILE(ssize_t, pread, (int f, void *to, size_t n, off_t at), READ, f, &n, -1, (f, to, n, at))
ON_FILE(ssize_t, pread64, (int f, void *to, size_t n, off64_t at), READ, f, &n, -1, (f, to, n, at))
ON_FILE(ssize_t, readv, (int f, const struct iovec *to, int n), READ, f, NULL, -1, (f, to, n))
ON_FILE(ssize_t, preadv64v2, (int f, const struct iovec *to, int n, off64_t at, int flags), READ, f, NULL, -1,
        (f, to, n, at, flags))
ON_FILE(ssize_t, sendfile64, (int to, int f, off64_t *at, size_t n), READ, f, &n, -1, (to, f, at, n))
ON_FILE(ssize_t, write, (int f, const void *from, size_t n), WRITE, f, &n, -1, (f, from, n))
ON_FILE(ssize_t, pwrite64, (int f, const void *from, size_t n, off64_t at), WRITE, f, &n, -1, (f, from, n, at))
ON_FILE(ssize_t, writev, (int f, const struct iovec *from, int n), WRITE, f, NULL, -1, (f, from, n))
ON_FILE(void *, mmap, (void *at, size_t n, int how, int flags, int f, off_t from), MMAP, f, NULL, MAP_FAILED,
        (at, n, how, flags, f, from))
ON_FILE(void *, mmap64, (void *at, size_t n, int how, int flags, int f, off64_t from), MMAP, f, NULL, MAP_FAILED,
        (at, n, how, flags, f, from))
ON_PATH(int, stat, (const char *path, struct stat *facts), STAT, AT_FDCWD, path, -1, (path, facts))
ON_PATH(int, stat64, (const char *path, struct stat64 *facts), STAT, AT_FDCWD, path, -1, (path, facts))
ON_PATH(int, lstat64, (const char *path, struct stat64 *facts), STAT, AT_FDCWD, path, -1, (path, facts))
ON_FILE(int, fstat64, (int f, struct stat64 *facts), STAT, f, NULL, -1, (f, facts))
ON_PATH(int, fstatat64, (int d, const char *path, struct stat64 *facts, int flags), STAT, d, path, -1,
        (d, path, facts, flags))
ON_PATH(int, statx, (int d, const char *path, int flags, unsigned mask, struct statx *facts), STAT, d, path, -1,
        (d, path, flags, mask, facts))
ON_PATH(int, link, (const char *old, const char *path), LINK, AT_FDCWD, path, -1, (old, path))
ON_PATH(int, linkat, (int from, const char *old, int to, const char *path, int flags), LINK, to, path, -1,
        (from, old, to, path, flags))
ON_PATH(int, rename, (const char *old, const char *path), RENAME, AT_FDCWD, path, -1, (old, path))
ON_PATH(int, renameat, (int from, const char *old, int to, const char *path), RENAME, to, path, -1,
        (from, old, to, path))
ON_PATH(int, unlink, (const char *path), UNLINK, AT_FDCWD, path, -1, (path))
ON_PATH(int, unlinkat, (int d, const char *path, int flags), UNLINK, d, path, -1, (d, path, flags))
ON_PATH(int, rmdir, (const char *path), UNLINK, AT_FDCWD, path, -1, (path))
ON_PATH(int, mkdir, (const char *path, mode_t mode), MKDIR, AT_FDCWD, path, -1, (path, mode))
ON_PATH(int, mkdirat, (int d, const char *path, mode_t mode), MKDIR, d, path, -1, (d, path, mode))
ON_FILE(int, fsync, (int f), FSYNC, f, NULL, -1, (f))
ON_FILE(int, fdatasync, (int f), FSYNC, f, NULL, -1, (f))
ON_PATH(DIR *, opendir, (const char *path), LIST, AT_FDCWD, path, NULL, (path))
ON_FILE(DIR *, fdopendir, (int f), LIST, f, NULL, NULL, (f))

int close(int file) { /* Linux closes a descriptor also where it reports an error */
    REAL(close);
    int ended = allowed_file(CLOSE, file, NULL), why = errno, code = real(file);
    return ended ? code : (errno = why, -1);
}
