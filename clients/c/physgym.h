/* physgym.h: host simulations in C or C++ for a run of physgym, which lets workers connect.
 *
 *     ./spring HOST:PORT --token-file FILE
 *
 * One header, C99 (or C++11) and POSIX sockets; link with libm. With PHYSGYM_TLS defined it speaks TLS by OpenSSL as
 * well (link with -lssl -lcrypto). A program declares its simulation in a `pg_simulation` and calls `pg_main`:
 *
 *     static int reset(void *env, const double *parameters, pg_random *random, pg_result *result) { ... }
 *     static int step(void *env, const double *action, pg_random *random, pg_result *result) { ... }
 *
 *     int main(int argc, char **argv) {
 *         pg_simulation simulation = pg_declared("my/Spring-v0");
 *         simulation.observation = PG_FIELDS(observation);
 *         ...
 *         return pg_main(argc, argv, &simulation);
 *     }
 *
 * docs/howto/c_client.md explains all of it, docs/reference/protocol.md what is sent. Everything of the header's own begins with pg_
 * or PG_. What stands above the line "Implementation" is for programs, the rest may change.
 */
#ifndef PHYSGYM_H
#define PHYSGYM_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifdef PHYSGYM_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#endif

#ifndef CLOCK_MONOTONIC
#error "include physgym.h before any other header, or compile with -D_POSIX_C_SOURCE=200809L"
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SIGPIPE is ignored */
#endif

#ifdef __GNUC__
#define PG_PRINTS(which, first) __attribute__((format(printf, which, first)))
#else
#define PG_PRINTS(which, first)
#endif

#define PG_CLIENT "1" /* version of this header */
#define PG_AXES 4     /* of a field, at most */
#define PG_TEXT 1024  /* bytes of a reason, its end included */

/* What a field holds. PG_DISCRETE is one of the integers from `low` to `high` (a Discrete space of int64), all
 * others are arrays within bounds (a Box). */
typedef enum { PG_FLOAT64, PG_FLOAT32, PG_INT64, PG_INT32, PG_UINT8, PG_BOOL, PG_DISCRETE } pg_dtype;

/* What a field of a sample is for. */
typedef enum { PG_ADDITIONAL, PG_INPUT, PG_TARGET } pg_role;

/* A field: a space, or one of the named arrays of a space. Callbacks have all its numbers as doubles, in C order; on
 * the wire and in a dataset they have the dtype, and what it cannot hold is an error. */
typedef struct {
    const char *name; /* NULL for a space that has no names */
    pg_dtype dtype;
    size_t shape[PG_AXES]; /* axes, up to the first that is 0; {0} for a single number */
    double low, high;      /* bounds of all elements; -INFINITY and INFINITY for none */
    const double *bounds;  /* in their place: low and high of each element, one after another; NULL for none */
    pg_role role;          /* of a field of a sample */
    const char *unit;      /* of a field of a sample, or of a parameter; NULL for none */
    const char *feeds;     /* of a field of a sample: the input that it is in the next step; NULL for none */
    int dimensions;        /* of a field of a sample: how many of its axes lie on a grid; 0 where not said */
} pg_field;

/* Fields in their order, which is that of their numbers in a callback; see PG_FIELDS. */
typedef struct {
    const pg_field *list;
    size_t count;
} pg_fields;

#define PG_FIELDS(array) pg_fields_of((array), sizeof(array) / sizeof *(array))

/* An argument of environments, a number: the run may give it another value, from `low` to `high`. */
typedef struct {
    const char *name;
    double value, low, high;
} pg_setting;

/* A stream of random numbers, equal to that of NumPy for the same seed. */
typedef struct {
    int philox;        /* whether it is numpy.random.Philox, as for actions; else PCG64, as of Gymnasium */
    uint64_t state[4]; /* PCG64: high and low word of state and increment; Philox: the counter */
    uint64_t key[2], made[4];
    int used;     /* numbers of `made` that were taken */
    int has_half; /* whether 32 bits wait */
    uint32_t half;
} pg_random;

/* What a reset or a step gives. */
typedef struct {
    double *observation; /* to be filled: the observation, field after field */
    double *sample;      /* to be filled by a step: the sample, field after field */
    double reward;
    int terminated;      /* whether the episode has reached a terminal state */
    int truncated;       /* whether it ends for another reason; `max_episode_steps` is seen to */
    int rejected_sample; /* of a step that is rejected: whether `sample` is filled nevertheless, for --keep-rejected */
    char text[PG_TEXT];  /* why a step was rejected, or what failed; see pg_say */
} pg_result;

/* What a callback returns. */
enum { PG_OK = 0, PG_REJECTED = 1, PG_FAILED = 2 };

/* A simulation, see pg_declared. Callbacks may be NULL where it says so. */
typedef struct {
    const char *id;             /* the name by which a run asks for it, such as my/Spring-v0 */
    pg_fields observation;      /* one field without a name, or several with names */
    pg_fields action;           /* as the observation */
    pg_fields sample;           /* with names; none where episodes give no samples */
    pg_fields parameters;       /* of an episode, with names and bounds; none where episodes have none */
    const pg_setting *settings; /* arguments; NULL for none */
    size_t setting_count;
    long max_episode_steps; /* steps after which an episode is truncated; 0 for no end */
    double time_step;       /* time of a step in s; 0 where it is not declared */

    /* Make an environment; return it, or NULL with what is wrong in `text`. Where it is NULL itself, env is NULL. */
    void *(*make)(const double *settings, char text[PG_TEXT]);
    /* Begin an episode: PG_OK with the observation, or PG_FAILED. */
    int (*reset)(void *env, const double *parameters, pg_random *random, pg_result *result);
    /* Make a step: PG_OK with observation, sample and reward; PG_REJECTED where it gives no valid sample; PG_FAILED. */
    int (*step)(void *env, const double *action, pg_random *random, pg_result *result);
    /* Free an environment; may be NULL. */
    void (*close)(void *env);
    /* Draw an action for generation; NULL for uniform ones, those that the same simulation in Python has. */
    void (*draw_action)(void *env, pg_random *random, double *action);
    /* Draw the parameters that the run does not give; NULL for uniform ones, as in Python. */
    void (*draw_parameters)(pg_random *random, double *parameters);

    /* Its state, for --states alone; 0 and NULL for none. */
    size_t state_size;
    void (*get_state)(void *env, double *state);
    void (*set_state)(void *env, const double *state);
} pg_simulation;

/* Return a simulation of which nothing but the id is declared. */
static inline pg_simulation pg_declared(const char *id);
/* Run the program: connect to a run and serve it, or print states (--states FILE). Return the exit status. */
static inline int pg_main(int argc, char **argv, const pg_simulation *simulation);
/* Write the reason into a result and return `code`: return pg_say(result, PG_REJECTED, "no convergence in %d", n); */
static inline int pg_say(pg_result *result, int code, const char *format, ...) PG_PRINTS(3, 4);
/* Return a random number in [0, 1). */
static inline double pg_unit(pg_random *random);
/* Return a random number in [low, high), as Generator.uniform. */
static inline double pg_uniform(pg_random *random, double low, double high);
/* Return a random integer from `low` to `high`, both included, at most 2^32 - 1 apart; as Generator.integers. */
static inline int64_t pg_integer(pg_random *random, int64_t low, int64_t high);
static inline pg_fields pg_fields_of(const pg_field *list, size_t count);

/* ------------------------------------------------------------------------------------------------ Implementation */

enum {
    PG_VERSION = 7,
    PG_CHALLENGE = 0,
    PG_HELLO,
    PG_WELCOME,
    PG_READY,
    PG_ATTACH,
    PG_ATTACHED,
    PG_RESET,
    PG_STEP,
    PG_RESULTS,
    PG_ROLLOUT,
    PG_ROLLOUT_RESULT,
    PG_CALL,
    PG_CALL_RESULT,
    PG_PREDICT,
    PG_PREDICTION,
    PG_CLOSE,
    PG_CLOSED,
    PG_FAILURE,
    PG_WATCH_SCENES,
    PG_SCENE_PART,
    PG_GIVE_INPUTS,
    PG_WORKER_OFFER,
    PG_ASSIGNMENT,
    PG_REFUSAL
};
enum { PG_INLINE = 4, PG_LAST = 2, PG_STREAM = 1 }; /* flags of Step and Results */
enum { PG_DONE = 0, PG_USAGE = 2, PG_LOST = 3, PG_REFUSED = 4 }; /* how a conversation ends */
enum { PG_NEXT_STEP, PG_SAME_STEP, PG_DISABLED }; /* autoreset modes */
#define PG_ALL 0xFFFFFFFFu
#define PG_TOKEN 32u                /* bytes of a token, a nonce and a proof */
#define PG_BODY ((uint64_t)1 << 30) /* bytes of a body */
#define PG_BODY_BEFORE_WELCOME ((uint64_t)1 << 10)
#define PG_AHEAD ((size_t)1 << 20) /* bytes that are read ahead while a request is served */
#define PG_PART ((size_t)1 << 20)  /* bytes of samples that are sent at once */
#define PG_PART_SECONDS 0.05
#define PG_SIGN_OF_LIFE 1.0         /* seconds until a part without samples is sent */
#define PG_LOOK_SECONDS 0.05        /* between two looks whether the run wants to close */
#define PG_GREETING 15.0            /* seconds for the handshakes */
#define PG_FAREWELL 2.0             /* seconds to wait for the parent to hang up */
#define PG_ENVS 4096                /* environments of a worker, at most */
#define PG_VARIANTS 1024            /* sets of arguments of an environment, at most */
#define PG_EXACT 9007199254740992.0 /* 2^53: integers that a double holds */

/* --- memory and texts */

typedef struct {
    unsigned char *data;
    size_t size, room;
} pg_bytes;

static inline void pg_no_memory(void) {
    fputs("physgym: out of memory\n", stderr);
    exit(1);
}

static inline void *pg_take(size_t count, size_t size) {
    void *taken = calloc(count ? count : 1, size ? size : 1); /* which sees to the product */
    if (taken == NULL) pg_no_memory();
    return taken;
}

static inline void pg_reserve(pg_bytes *bytes, size_t more) {
    size_t room = bytes->room ? bytes->room : 256;
    if (more > SIZE_MAX / 2 - bytes->size) pg_no_memory();
    while (room < bytes->size + more) room *= 2;
    if (room != bytes->room) {
        unsigned char *data = (unsigned char *)realloc(bytes->data, room);
        if (data == NULL) pg_no_memory();
        bytes->data = data;
        bytes->room = room;
    }
}

static inline void pg_put(pg_bytes *bytes, const void *data, size_t size) {
    if (size == 0) return;
    pg_reserve(bytes, size);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static inline void pg_free(pg_bytes *bytes) {
    free(bytes->data);
    bytes->data = NULL;
    bytes->size = bytes->room = 0;
}

static inline void pg_number_le(unsigned char *to, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; i++) to[i] = (unsigned char)((value >> (8 * i)) & 255u);
}

static inline uint64_t pg_number_of(const unsigned char *from, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) value |= (uint64_t)from[i] << (8 * i);
    return value;
}

static inline void pg_put_number(pg_bytes *bytes, uint64_t value, size_t size) {
    unsigned char data[8];
    pg_number_le(data, value, size);
    pg_put(bytes, data, size);
}

static inline void pg_put_double(pg_bytes *bytes, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    pg_put_number(bytes, bits, 8);
}

static inline double pg_double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline double pg_float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static inline int pg_say(pg_result *result, int code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(result->text, PG_TEXT, format, values);
    va_end(values);
    return code;
}

static inline void pg_tell(const char *format, ...) PG_PRINTS(1, 2);
static inline void pg_tell(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("physgym: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
}

static inline double pg_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Return whether bytes are UTF-8. */
static inline int pg_is_utf8(const unsigned char *text, size_t size) {
    size_t i = 0;
    while (i < size) {
        unsigned char first = text[i++];
        size_t more = first < 0x80 ? 0 : first >= 0xC2 && first < 0xE0 ? 1 : first >= 0xE0 && first < 0xF0 ? 2 : 3;
        if (first >= 0x80 && (first < 0xC2 || first > 0xF4)) return 0;
        if (more > size - i) return 0;
        for (size_t k = 0; k < more; k++) {
            unsigned char next = text[i + k];
            if ((next & 0xC0u) != 0x80u) return 0;
            if (k == 0 && ((first == 0xE0 && next < 0xA0) || (first == 0xED && next > 0x9F) ||
                           (first == 0xF0 && next < 0x90) || (first == 0xF4 && next > 0x8F)))
                return 0;
        }
        i += more;
    }
    return 1;
}

/* --- SHA-256 and HMAC (FIPS 180-4, RFC 2104) */

static inline uint32_t pg_rotated(uint32_t x, int by) { return (x >> by) | (x << (32 - by)); }

static inline void pg_sha256_block(uint32_t state[8], const unsigned char *block) {
    static const uint32_t constants[64] = {
        0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
        0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
        0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
        0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
        0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
        0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
        0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
        0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};
    uint32_t w[64], v[8];
    for (size_t i = 0; i < 16; i++) {
        const unsigned char *from = block + 4 * i;
        w[i] = (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | (uint32_t)from[3];
    }
    for (size_t i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (pg_rotated(a, 7) ^ pg_rotated(a, 18) ^ (a >> 3)) + w[i - 7] +
               (pg_rotated(b, 17) ^ pg_rotated(b, 19) ^ (b >> 10));
    }
    memcpy(v, state, sizeof v);
    for (size_t i = 0; i < 64; i++) {
        uint32_t one = v[7] + (pg_rotated(v[4], 6) ^ pg_rotated(v[4], 11) ^ pg_rotated(v[4], 25)) +
                       ((v[4] & v[5]) ^ (~v[4] & v[6])) + constants[i] + w[i];
        uint32_t two = (pg_rotated(v[0], 2) ^ pg_rotated(v[0], 13) ^ pg_rotated(v[0], 22)) +
                       ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (size_t i = 0; i < 8; i++) state[i] += v[i];
}

/* Hash parts, one after another. */
static inline void pg_sha256(const pg_bytes *parts, size_t count, unsigned char digest[32]) {
    uint32_t state[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                         0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
    unsigned char block[64];
    uint64_t total = 0;
    size_t filled = 0;
    for (size_t part = 0; part < count; part++) {
        for (size_t i = 0; i < parts[part].size; i++) {
            block[filled++] = parts[part].data[i];
            if (filled == 64) {
                pg_sha256_block(state, block);
                filled = 0;
            }
        }
        total += 8 * (uint64_t)parts[part].size;
    }
    block[filled++] = 0x80;
    if (filled > 56) {
        memset(block + filled, 0, 64 - filled);
        pg_sha256_block(state, block);
        filled = 0;
    }
    memset(block + filled, 0, 56 - filled);
    for (size_t i = 0; i < 8; i++) block[56 + i] = (unsigned char)((total >> (56 - 8 * i)) & 255u);
    pg_sha256_block(state, block);
    for (size_t i = 0; i < 32; i++) digest[i] = (unsigned char)((state[i / 4] >> (24 - 8 * (i % 4))) & 255u);
}

static inline void pg_hmac(const unsigned char *key, size_t key_size, const unsigned char *text, size_t size,
                           unsigned char proof[32]) {
    unsigned char block[64] = {0}, inner[64], outer[64], digest[32];
    pg_bytes parts[2];
    memset(parts, 0, sizeof parts);
    if (key_size > 64) {
        pg_bytes whole;
        whole.data = (unsigned char *)(uintptr_t)key; /* which is read alone */
        whole.size = whole.room = key_size;
        pg_sha256(&whole, 1, block);
    } else {
        memcpy(block, key, key_size);
    }
    for (size_t i = 0; i < 64; i++) {
        inner[i] = (unsigned char)(block[i] ^ 0x36u);
        outer[i] = (unsigned char)(block[i] ^ 0x5cu);
    }
    parts[0].data = inner;
    parts[0].size = 64;
    parts[1].data = (unsigned char *)(uintptr_t)text;
    parts[1].size = size;
    pg_sha256(parts, 2, digest);
    parts[0].data = outer;
    parts[1].data = digest;
    parts[1].size = 32;
    pg_sha256(parts, 2, proof);
}

/* Compare in constant time. */
static inline int pg_equal(const unsigned char *a, const unsigned char *b, size_t size) {
    unsigned char unlike = 0;
    for (size_t i = 0; i < size; i++) unlike = (unsigned char)(unlike | (a[i] ^ b[i]));
    return unlike == 0;
}

static inline int pg_from_system(unsigned char *bytes, size_t size) {
    int file = open("/dev/urandom", O_RDONLY);
    size_t have = 0;
    if (file < 0) return 0;
    while (have < size) {
        ssize_t got = read(file, bytes + have, size - have);
        if (got <= 0 && !(got < 0 && errno == EINTR)) break;
        if (got > 0) have += (size_t)got;
    }
    close(file);
    return have == size;
}

/* --- random numbers as NumPy has them */

static inline void pg_product(uint64_t a, uint64_t b, uint64_t *high, uint64_t *low) {
    uint64_t a0 = a & 0xFFFFFFFFu, a1 = a >> 32, b0 = b & 0xFFFFFFFFu, b1 = b >> 32;
    uint64_t first = a0 * b0, second = a1 * b0 + (first >> 32), third = a0 * b1 + (second & 0xFFFFFFFFu);
    *high = a1 * b1 + (second >> 32) + (third >> 32);
    *low = (third << 32) | (first & 0xFFFFFFFFu);
}

static inline void pg_pcg_step(pg_random *random) {
    const uint64_t high = UINT64_C(0x2360ED051FC65DA4), low = UINT64_C(0x4385DF649FCCF645);
    uint64_t top, bottom;
    pg_product(random->state[1], low, &top, &bottom);
    top += random->state[0] * low + random->state[1] * high;
    random->state[1] = bottom + random->state[3];
    random->state[0] = top + random->state[2] + (random->state[1] < bottom);
}

static inline uint32_t pg_mixed(uint32_t value, uint32_t *constant, uint32_t factor) {
    value ^= *constant;
    *constant *= factor;
    value *= *constant;
    return value ^ (value >> 16);
}

/* Return Generator(PCG64(SeedSequence(seed))). */
static inline pg_random pg_seeded(uint64_t seed) {
    uint32_t pool[4] = {0, 0, 0, 0}, constant = 0x43b0d7e5u, words[8];
    uint64_t drawn[4];
    pg_random random;
    memset(&random, 0, sizeof random);
    pool[0] = (uint32_t)(seed & 0xFFFFFFFFu);
    pool[1] = (uint32_t)(seed >> 32);
    for (size_t i = 0; i < 4; i++) pool[i] = pg_mixed(pool[i], &constant, 0x931e8875u);
    for (size_t from = 0; from < 4; from++)
        for (size_t to = 0; to < 4; to++)
            if (from != to) {
                uint32_t hash = pg_mixed(pool[from], &constant, 0x931e8875u);
                uint32_t mix = 0xca01f9ddu * pool[to] - 0x4973f715u * hash;
                pool[to] = mix ^ (mix >> 16);
            }
    constant = 0x8b51f9ddu;
    for (size_t i = 0; i < 8; i++) words[i] = pg_mixed(pool[i % 4], &constant, 0x58f38dedu);
    for (size_t i = 0; i < 4; i++) drawn[i] = (uint64_t)words[2 * i] | (uint64_t)words[2 * i + 1] << 32;
    random.state[2] = drawn[2] << 1 | drawn[3] >> 63;
    random.state[3] = drawn[3] << 1 | 1u;
    pg_pcg_step(&random);
    random.state[1] += drawn[1];
    random.state[0] += drawn[0] + (random.state[1] < drawn[1]);
    pg_pcg_step(&random);
    return random;
}

/* Return the generator of the actions of an episode, Philox with its seed as the key. */
static inline pg_random pg_of_actions(uint64_t seed) {
    pg_random random;
    memset(&random, 0, sizeof random);
    random.philox = 1;
    random.key[0] = seed;
    random.used = 4;
    return random;
}

static inline void pg_philox(pg_random *random) {
    uint64_t c[4], k0 = random->key[0], k1 = random->key[1];
    for (size_t i = 0; i < 4 && ++random->state[i] == 0; i++) continue;
    memcpy(c, random->state, sizeof c);
    for (int turn = 0; turn < 10; turn++) {
        uint64_t high0, low0, high1, low1;
        pg_product(UINT64_C(0xD2E7470EE14C6C93), c[0], &high0, &low0);
        pg_product(UINT64_C(0xCA5A826395121157), c[2], &high1, &low1);
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += UINT64_C(0x9E3779B97F4A7C15);
        k1 += UINT64_C(0xBB67AE8584CAA73B);
    }
    memcpy(random->made, c, sizeof c);
    random->used = 0;
}

static inline uint64_t pg_bits(pg_random *random) {
    if (random->philox) {
        if (random->used >= 4) pg_philox(random);
        return random->made[random->used++];
    }
    pg_pcg_step(random);
    uint64_t folded = random->state[0] ^ random->state[1], by = random->state[0] >> 58;
    return (folded >> by) | (folded << ((64u - by) & 63u));
}

static inline uint32_t pg_half(pg_random *random) {
    if (random->has_half) {
        random->has_half = 0;
        return random->half;
    }
    uint64_t bits = pg_bits(random);
    random->has_half = 1;
    random->half = (uint32_t)(bits >> 32);
    return (uint32_t)(bits & 0xFFFFFFFFu);
}

static inline double pg_unit(pg_random *random) { return (double)(pg_bits(random) >> 11) * (1.0 / PG_EXACT); }

static inline double pg_uniform(pg_random *random, double low, double high) {
    return low + (high - low) * pg_unit(random);
}

static inline int64_t pg_integer(pg_random *random, int64_t low, int64_t high) {
    uint64_t span = (uint64_t)high - (uint64_t)low;
    if (high <= low) return low;
    if (span >= 0xFFFFFFFFu) return (int64_t)((uint64_t)low + pg_half(random)); /* no more than 32 bits */
    uint32_t count = (uint32_t)span + 1u;
    uint64_t product = (uint64_t)pg_half(random) * count;
    if ((uint32_t)product < count) {
        uint32_t least = (0xFFFFFFFFu - (uint32_t)span) % count;
        while ((uint32_t)product < least) product = (uint64_t)pg_half(random) * count;
    }
    return (int64_t)((uint64_t)low + (product >> 32));
}

/* --- a connection: bytes in both directions, over TCP or TLS */

typedef struct {
    int file;        /* -1 where there is none */
    double deadline; /* until which to wait; 0 for ever */
    pg_bytes in;     /* what has arrived: from `taken` to in.size */
    size_t taken;
    const char *trouble; /* what is wrong with what the peer sent, or NULL: it is gone */
#ifdef PHYSGYM_TLS
    SSL_CTX *context;
    SSL *tls;
    char alert[200]; /* why the peer does not accept the certificate of this end */
#endif
} pg_link;

/* Wait for an event; return whether it came in time. */
static inline int pg_wait(pg_link *link, short event) {
    for (;;) {
        struct pollfd one;
        int left = -1;
        if (link->deadline > 0) {
            double seconds = link->deadline - pg_now();
            if (seconds <= 0) {
                link->trouble = "nothing arrived for too long";
                return 0;
            }
            left = (int)(seconds * 1000) + 1;
        }
        one.fd = link->file;
        one.events = event;
        one.revents = 0;
        int found = poll(&one, 1, left);
        if (found > 0) return 1;
        if (found < 0 && errno != EINTR) return 0;
    }
}

#ifdef PHYSGYM_TLS
/* Take what the peer says of the certificate of this end, which with TLS 1.3 comes after the handshake. */
static inline void pg_take_alert(pg_link *link) {
    unsigned long code = ERR_peek_error();
    int alert = ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET;
    if (alert != SSL_AD_UNKNOWN_CA && alert != SSL_AD_ACCESS_DENIED && alert != 116 /* one is required */ &&
        (alert < SSL_AD_BAD_CERTIFICATE || alert > SSL_AD_CERTIFICATE_UNKNOWN))
        return;
    const char *text = ERR_reason_error_string(code);
    snprintf(link->alert, sizeof link->alert,
             "it does not accept this program by TLS (%s): see --certificate and --key, which the run's --clients file "
             "is to have signed, and the clocks of both machines",
             text != NULL ? text : "no reason is given");
    link->trouble = link->alert;
}
#endif

/* Read up to `size` bytes; return how many, 0 where none are there, -1 at the end of the connection. */
static inline long pg_read(pg_link *link, unsigned char *to, size_t size, int wait) {
    if (size > ((size_t)1 << 20)) size = (size_t)1 << 20;
    for (;;) {
        short event = POLLIN;
#ifdef PHYSGYM_TLS
        if (link->tls != NULL) {
            ERR_clear_error();
            int got = SSL_read(link->tls, to, (int)size);
            if (got > 0) return got;
            int why = SSL_get_error(link->tls, got);
            if (why == SSL_ERROR_SSL) pg_take_alert(link);
            if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) return -1;
            if (why == SSL_ERROR_WANT_WRITE) event = POLLOUT;
        } else
#endif
        {
            ssize_t got = recv(link->file, to, size, 0);
            if (got > 0) return (long)got;
            if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return -1;
        }
        if (!wait) return 0;
        if (!pg_wait(link, event)) return -1;
    }
}

/* Write all bytes; return whether they were taken. */
static inline int pg_write(pg_link *link, const unsigned char *from, size_t size) {
    while (size > 0) {
        size_t part = size > ((size_t)1 << 20) ? (size_t)1 << 20 : size, taken = 0;
        short event = POLLOUT;
#ifdef PHYSGYM_TLS
        if (link->tls != NULL) {
            ERR_clear_error();
            int got = SSL_write(link->tls, from, (int)part);
            if (got > 0) {
                taken = (size_t)got;
            } else {
                int why = SSL_get_error(link->tls, got);
                if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) return 0;
                if (why == SSL_ERROR_WANT_READ) event = POLLIN;
            }
        } else
#endif
        {
            ssize_t got = send(link->file, from, part, MSG_NOSIGNAL);
            if (got > 0)
                taken = (size_t)got;
            else if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
                return 0;
        }
        if (taken == 0 && !pg_wait(link, event)) return 0;
        from += taken;
        size -= taken;
    }
    return 1;
}

static inline size_t pg_here(const pg_link *link) { return link->in.size - link->taken; }

/* Have so many bytes there, whose memory is taken as they arrive; or without waiting what is there, up to so many. */
static inline int pg_fill(pg_link *link, size_t wanted, int wait) {
    while (pg_here(link) < wanted) {
        if (link->taken > 0 && (link->taken == link->in.size || link->in.size == link->in.room)) {
            memmove(link->in.data, link->in.data + link->taken, pg_here(link));
            link->in.size -= link->taken;
            link->taken = 0;
        }
        if (link->in.size == link->in.room) pg_reserve(&link->in, link->in.room < 65536 ? 65536 : link->in.room);
        long got = pg_read(link, link->in.data + link->in.size, link->in.room - link->in.size, wait);
        if (got < 0) return 0;
        if (got == 0) return 1;
        link->in.size += (size_t)got;
    }
    return 1;
}

static inline void pg_hang_up(pg_link *link) {
#ifdef PHYSGYM_TLS
    if (link->tls != NULL) {
        ERR_clear_error();
        SSL_shutdown(link->tls); /* whose answer is not waited for */
        SSL_free(link->tls);
        link->tls = NULL;
    }
    if (link->context != NULL) SSL_CTX_free(link->context);
    link->context = NULL;
#endif
    if (link->file >= 0) close(link->file);
    link->file = -1;
    pg_free(&link->in);
    link->taken = 0;
}

/* --- msgpack: writing */

static inline void pg_put_head(pg_bytes *b, unsigned few, unsigned most, unsigned code8, unsigned code16,
                               uint64_t count) {
    /* a fixed code for up to `most`, else the codes of 8 (0 for none), 16 and 32 bits */
    if (count <= most) {
        pg_put_number(b, few | count, 1);
        return;
    }
    unsigned size = count < 256 && code8 ? 1u : count < 65536 ? 2u : 4u;
    unsigned char head[5];
    head[0] = (unsigned char)(size == 1 ? code8 : size == 2 ? code16 : code16 + 1);
    for (unsigned i = 0; i < size; i++) head[1 + i] = (unsigned char)((count >> (8 * (size - 1 - i))) & 255u);
    pg_put(b, head, size + 1);
}

static inline void pg_put_nil(pg_bytes *b) { pg_put_number(b, 0xC0, 1); }
static inline void pg_put_bool(pg_bytes *b, int value) { pg_put_number(b, value ? 0xC3u : 0xC2u, 1); }
static inline void pg_put_list(pg_bytes *b, uint64_t count) { pg_put_head(b, 0x90, 15, 0, 0xDC, count); }
static inline void pg_put_map(pg_bytes *b, uint64_t count) { pg_put_head(b, 0x80, 15, 0, 0xDE, count); }

static inline void pg_put_text(pg_bytes *b, const char *text) {
    size_t size = strlen(text);
    if (!pg_is_utf8((const unsigned char *)text, size)) { /* of a program's own, which no receiver would take */
        text = "(a text that is not UTF-8)";
        size = strlen(text);
    }
    pg_put_head(b, 0xA0, 31, 0xD9, 0xDA, size);
    pg_put(b, text, size);
}

static inline void pg_put_binary(pg_bytes *b, const void *data, size_t size) {
    unsigned char head[5];
    head[0] = 0xC6;
    for (size_t i = 0; i < 4; i++) head[1 + i] = (unsigned char)(((uint64_t)size >> (24 - 8 * i)) & 255u);
    pg_put(b, head, 5);
    pg_put(b, data, size);
}

static inline void pg_put_int(pg_bytes *b, int64_t value) {
    uint64_t bits = (uint64_t)value;
    unsigned char code[9];
    if (value >= 0 && value < 128) {
        pg_put_number(b, bits, 1);
        return;
    }
    code[0] = 0xD3;
    for (size_t i = 0; i < 8; i++) code[1 + i] = (unsigned char)((bits >> (56 - 8 * i)) & 255u);
    pg_put(b, code, 9);
}

static inline void pg_put_float(pg_bytes *b, double value) {
    uint64_t bits;
    unsigned char code[9];
    memcpy(&bits, &value, sizeof bits);
    code[0] = 0xCB;
    for (size_t i = 0; i < 8; i++) code[1 + i] = (unsigned char)((bits >> (56 - 8 * i)) & 255u);
    pg_put(b, code, 9);
}

static inline void pg_put_ext(pg_bytes *b, unsigned type, size_t size) {
    unsigned char head[6];
    head[0] = 0xC9;
    for (size_t i = 0; i < 4; i++) head[1 + i] = (unsigned char)(((uint64_t)size >> (24 - 8 * i)) & 255u);
    head[5] = (unsigned char)type;
    pg_put(b, head, 6);
}

/* Put an array (ext type 1) or a number of numpy (2): dtype, shape, and data as they are sent. */
static inline void pg_put_array(pg_bytes *b, unsigned type, const char *dtype, const size_t *shape, size_t axes,
                                const void *data, size_t size) {
    pg_bytes head;
    memset(&head, 0, sizeof head);
    pg_put_list(&head, 3);
    pg_put_text(&head, dtype);
    pg_put_list(&head, axes);
    for (size_t i = 0; i < axes; i++) pg_put_int(&head, (int64_t)shape[i]);
    pg_put_ext(b, type, head.size + 5 + size);
    pg_put(b, head.data, head.size);
    pg_put_binary(b, data, size);
    pg_free(&head);
}

static inline void pg_put_column(pg_bytes *b, const char *dtype, const pg_bytes *data) {
    size_t count = data->size / 8;
    pg_put_array(b, 1, dtype, &count, 1, data->data, data->size);
}

/* --- msgpack: reading. A cursor never goes beyond its end; what is wrong sets `bad`, and gives nil from then on. */

typedef struct {
    const unsigned char *at, *end;
    int bad;
} pg_cursor;

/* What stands at a cursor: 'n' nil, '?' bool, 'i' int, 'f' float, 's' text, 'b' bytes, 'l' list, 'm' map, 'x'
 * extension. */
typedef struct {
    char kind;
    int negative;              /* of an int, whose bits are `number` */
    uint64_t number;           /* an int, or a bool */
    double real;               /* a float, or an int as one */
    const unsigned char *data; /* of text, bytes and extension */
    size_t size;               /* of these in bytes; of a list and a map the number of entries */
    int type;                  /* of the extension */
} pg_value;

static inline uint64_t pg_big_endian(pg_cursor *c, size_t size) {
    uint64_t value = 0;
    if ((size_t)(c->end - c->at) < size) {
        c->bad = 1;
        return 0;
    }
    for (size_t i = 0; i < size; i++) value = value << 8 | *c->at++;
    return value;
}

/* Read one value; of a list or map its head alone, upon which its entries follow. */
static inline pg_value pg_next(pg_cursor *c) {
    pg_value v;
    memset(&v, 0, sizeof v);
    v.kind = 'n';
    unsigned code = (unsigned)pg_big_endian(c, 1);
    uint64_t size = 0;
    if (c->bad) return v;
    if (code < 0x80) {
        v.kind = 'i';
        v.number = code;
    } else if (code >= 0xE0) {
        v.kind = 'i';
        v.number = (uint64_t)(int64_t)((int)code - 256);
        v.negative = 1;
    } else if (code < 0x90) {
        v.kind = 'm';
        size = code & 15u;
    } else if (code < 0xA0) {
        v.kind = 'l';
        size = code & 15u;
    } else if (code < 0xC0) {
        v.kind = 's';
        size = code & 31u;
    } else {
        switch (code) {
        case 0xC0: break;
        case 0xC2:
        case 0xC3:
            v.kind = '?';
            v.number = code & 1u;
            break;
        case 0xC4:
        case 0xC5:
        case 0xC6:
            v.kind = 'b';
            size = pg_big_endian(c, (size_t)1 << (code - 0xC4));
            break;
        case 0xC7:
        case 0xC8:
        case 0xC9:
            v.kind = 'x';
            size = pg_big_endian(c, (size_t)1 << (code - 0xC7));
            break;
        case 0xCA:
            v.kind = 'f';
            v.real = pg_float_of((uint32_t)pg_big_endian(c, 4));
            break;
        case 0xCB:
            v.kind = 'f';
            v.real = pg_double_of(pg_big_endian(c, 8));
            break;
        case 0xCC:
        case 0xCD:
        case 0xCE:
        case 0xCF:
            v.kind = 'i';
            v.number = pg_big_endian(c, (size_t)1 << (code - 0xCC));
            break;
        case 0xD0:
        case 0xD1:
        case 0xD2:
        case 0xD3: {
            size_t width = (size_t)1 << (code - 0xD0);
            v.kind = 'i';
            v.number = pg_big_endian(c, width);
            v.negative = (int)(v.number >> (8 * width - 1) & 1u);
            if (v.negative && width < 8) v.number |= ~(uint64_t)0 << (8 * width);
            break;
        }
        case 0xD4:
        case 0xD5:
        case 0xD6:
        case 0xD7:
        case 0xD8:
            v.kind = 'x';
            size = (uint64_t)1 << (code - 0xD4);
            break;
        case 0xD9:
        case 0xDA:
        case 0xDB:
            v.kind = 's';
            size = pg_big_endian(c, (size_t)1 << (code - 0xD9));
            break;
        case 0xDC:
        case 0xDD:
            v.kind = 'l';
            size = pg_big_endian(c, (size_t)2 << (code - 0xDC));
            break;
        case 0xDE:
        case 0xDF:
            v.kind = 'm';
            size = pg_big_endian(c, (size_t)2 << (code - 0xDE));
            break;
        default: c->bad = 1; break; /* 0xC1 */
        }
    }
    if (v.kind == 'i') v.real = v.negative ? -(double)(~v.number + 1u) : (double)v.number;
    if (v.kind == 'x') {
        unsigned type = (unsigned)pg_big_endian(c, 1);
        v.type = type < 128 ? (int)type : (int)type - 256;
    }
    uint64_t here = (uint64_t)(c->end - c->at);
    if (v.kind == 's' || v.kind == 'b' || v.kind == 'x') {
        if (size > here) {
            c->bad = 1;
        } else {
            v.data = c->at;
            c->at += size;
            if (v.kind == 's' && !pg_is_utf8(v.data, (size_t)size)) c->bad = 1;
        }
    } else if (size > here || (v.kind == 'm' && 2 * size > here)) {
        c->bad = 1; /* each entry takes a byte at least */
    }
    if (c->bad) {
        memset(&v, 0, sizeof v);
        v.kind = 'n';
        return v;
    }
    v.size = (size_t)size;
    return v;
}

/* Pass over one value with all that is in it, without recursion. */
static inline void pg_skip(pg_cursor *c) {
    uint64_t left = 1;
    while (left > 0 && !c->bad) {
        pg_value v = pg_next(c);
        left += v.kind == 'l' ? v.size : v.kind == 'm' ? 2 * (uint64_t)v.size : 0;
        left--;
        if (left > (uint64_t)(c->end - c->at)) c->bad = 1;
    }
}

static inline pg_cursor pg_over(const unsigned char *data, size_t size) {
    pg_cursor c;
    c.at = data;
    c.end = size ? data + size : data;
    c.bad = 0;
    return c;
}

/* Return whether bytes are one value and no more. */
static inline int pg_is_whole(const unsigned char *data, size_t size) {
    pg_cursor c = pg_over(data, size);
    if (size == 0) return 0;
    pg_skip(&c);
    return !c.bad && c.at == c.end;
}

static inline int pg_is_text(const pg_value *v, const char *text) {
    return v->kind == 's' && v->size == strlen(text) && memcmp(v->data, text, v->size) == 0;
}

static inline int pg_is_kind(const pg_value *v, char kind) {
    if (v->kind == 'x' && v->type == 4 && kind == 'i') return 1; /* a large integer */
    if (kind == 'M' || kind == 'L') return v->kind == 'n' || v->kind == (kind == 'M' ? 'm' : 'l');
    return v->kind == kind;
}

/* Find the values of a map by name; where it has other keys, or a value is of another kind, return 0.
 *
 * `names` are separated by blanks, `kinds` has a letter for each of them: those of pg_value, M and L for map and list
 * or nil, * for anything. With `open` the map may have further keys. */
static inline int pg_read_map(pg_cursor *c, const char *names, const char *kinds, pg_cursor *found, int open) {
    size_t count = strlen(kinds), had = 0;
    pg_value map = pg_next(c);
    if (map.kind != 'm' || (!open && map.size != count)) return 0;
    for (size_t i = 0; i < count; i++) found[i] = pg_over(NULL, 0);
    for (size_t entry = 0; entry < map.size; entry++) {
        pg_value key;
        pg_cursor value;
        const char *name = names;
        size_t i = 0;
        pg_cursor before = *c;
        key = pg_next(c);
        if (key.kind == 'l' || key.kind == 'm') { /* no name, and its entries follow */
            *c = before;
            pg_skip(c);
        }
        value = *c;
        pg_skip(c);
        if (c->bad) return 0;
        value.end = c->at;
        for (; i < count; i++) {
            size_t size = strcspn(name, " ");
            if (key.kind == 's' && key.size == size && memcmp(key.data, name, size) == 0) break;
            name += size + (name[size] == ' ');
        }
        if (i == count) {
            if (open) continue;
            return 0;
        }
        if (found[i].at != NULL) return 0; /* twice */
        pg_cursor seen = value;
        pg_value what = pg_next(&seen);
        if (kinds[i] != '*' && !pg_is_kind(&what, kinds[i])) return 0;
        found[i] = value;
        had++;
    }
    return had == count;
}

/* --- fields: what they hold, and how that is sent */

static inline const char *pg_code(pg_dtype dtype) {
    static const char *const codes[] = {"<f8", "<f4", "<i8", "<i4", "|u1", "|b1", "<i8"};
    return codes[dtype];
}

static inline size_t pg_width(pg_dtype dtype) {
    static const size_t widths[] = {8, 4, 8, 4, 1, 1, 8};
    return widths[dtype];
}

static inline int pg_is_real(pg_dtype dtype) { return dtype == PG_FLOAT64 || dtype == PG_FLOAT32; }

static inline size_t pg_axes(const pg_field *field) {
    size_t axes = 0;
    while (axes < PG_AXES && field->shape[axes] != 0) axes++;
    return axes;
}

static inline size_t pg_elements(const pg_field *field) {
    size_t elements = 1;
    for (size_t i = 0; i < pg_axes(field); i++) elements *= field->shape[i];
    return elements;
}

static inline pg_fields pg_fields_of(const pg_field *list, size_t count) {
    pg_fields fields;
    fields.list = list;
    fields.count = count;
    return fields;
}

static inline size_t pg_numbers_of(pg_fields fields) {
    size_t numbers = 0;
    for (size_t i = 0; i < fields.count; i++) numbers += pg_elements(&fields.list[i]);
    return numbers;
}

static inline size_t pg_bytes_of(pg_fields fields) {
    size_t size = 0;
    for (size_t i = 0; i < fields.count; i++) size += pg_elements(&fields.list[i]) * pg_width(fields.list[i].dtype);
    return size;
}

static inline double pg_as_held(const pg_field *field, double value) {
    if (field->dtype != PG_FLOAT32 || !(fabs(value) <= 3.4028235677973366e38)) return value;
    return (double)(float)value;
}

static inline double pg_bound(const pg_field *field, size_t element, int high) {
    double bound = field->bounds != NULL ? field->bounds[2 * element + (size_t)(high != 0)]
                   : high                ? field->high
                                         : field->low;
    return pg_as_held(field, bound);
}

/* Store a number as it is sent; return 0 where its dtype does not hold it. */
static inline int pg_store(pg_dtype dtype, double value, unsigned char *to) {
    if (dtype == PG_FLOAT64) {
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        pg_number_le(to, bits, 8);
        return 1;
    }
    if (dtype == PG_FLOAT32) {
        const double most = 3.4028235677973366e38; /* what is beyond is rounded to infinity */
        float single = value >= most ? INFINITY : value <= -most ? -INFINITY : (float)value;
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        pg_number_le(to, bits, 4);
        return 1;
    }
    double low = dtype == PG_UINT8 || dtype == PG_BOOL ? 0.0 : dtype == PG_INT32 ? -2147483648.0 : -PG_EXACT;
    double high = dtype == PG_UINT8 ? 255.0 : dtype == PG_BOOL ? 1.0 : dtype == PG_INT32 ? 2147483647.0 : PG_EXACT;
    if (!(value >= low && value <= high) || floor(value) != value) return 0;
    pg_number_le(to, (uint64_t)(int64_t)value, pg_width(dtype));
    return 1;
}

/* Read a number of a kind ('b', 'i', 'u', 'f') and width as it is sent; return 0 where a double does not hold it. */
static inline int pg_load(char kind, size_t width, int big_endian, const unsigned char *from, double *value) {
    unsigned char turned[8];
    if (big_endian) {
        for (size_t i = 0; i < width; i++) turned[i] = from[width - 1 - i];
        from = turned;
    }
    uint64_t bits = pg_number_of(from, width);
    if (kind == 'f') {
        if (width == 8) {
            *value = pg_double_of(bits);
        } else if (width == 4) {
            *value = pg_float_of((uint32_t)bits);
        } else { /* half precision */
            int exponent = (int)(bits >> 10 & 31u);
            double part = (double)(bits & 1023u);
            double size = exponent == 31 ? (part > 0 ? (double)NAN : HUGE_VAL)
                          : exponent     ? ldexp(1024.0 + part, exponent - 25)
                                         : ldexp(part, -24);
            *value = bits >> 15 ? -size : size;
        }
        return 1;
    }
    int negative = kind == 'i' && (bits >> (8 * width - 1) & 1u);
    if (negative && width < 8) bits |= ~(uint64_t)0 << (8 * width);
    uint64_t size = negative ? ~bits + 1u : bits;
    *value = negative ? -(double)size : (double)size;
    return size <= (uint64_t)1 << 53;
}

static inline void pg_load_field(const pg_field *field, const unsigned char *from, double *to) {
    size_t width = pg_width(field->dtype), elements = pg_elements(field);
    const char *code = pg_code(field->dtype);
    for (size_t i = 0; i < elements; i++)
        if (!pg_load(code[1], width, 0, from + i * width, to + i)) to[i] = NAN; /* which no space of integers holds */
}

/* Store the numbers of fields, each into a column of its own; return the name of the one that does not hold its
 * numbers. */
static inline const char *pg_store_row(pg_fields fields, const double *from, pg_bytes *columns) {
    for (size_t f = 0; f < fields.count; f++) {
        const pg_field *field = &fields.list[f];
        size_t elements = pg_elements(field), width = pg_width(field->dtype);
        pg_reserve(&columns[f], elements * width);
        unsigned char *to = columns[f].data + columns[f].size;
        for (size_t i = 0; i < elements; i++)
            if (!pg_store(field->dtype, *from++, to + i * width)) {
                for (size_t k = 0; k < f; k++)
                    columns[k].size -= pg_elements(&fields.list[k]) * pg_width(fields.list[k].dtype);
                return field->name != NULL ? field->name : "observation";
            }
        columns[f].size += elements * width;
    }
    return NULL;
}

/* Return which field has a number that is not finite once it has its dtype; fields.count where none has. */
static inline size_t pg_not_finite(pg_fields fields, const double *from) {
    for (size_t f = 0; f < fields.count; f++) {
        size_t elements = pg_elements(&fields.list[f]);
        for (size_t i = 0; i < elements && pg_is_real(fields.list[f].dtype); i++) {
            double size = fabs(from[i]);
            if (!(size < (fields.list[f].dtype == PG_FLOAT32 ? 3.4028235677973366e38 : HUGE_VAL))) return f;
        }
        from += elements;
    }
    return fields.count;
}

/* Return which field has a number beyond its bounds, or one that its integers do not hold, which may be an index in
 * a program; NULL where none has. Real numbers count with `all`. */
static inline const pg_field *pg_outside(pg_fields fields, const double *from, int all) {
    for (size_t f = 0; f < fields.count; f++) {
        const pg_field *field = &fields.list[f];
        int real = pg_is_real(field->dtype);
        for (size_t i = 0; i < pg_elements(field); i++, from++) {
            if (real && !all) continue;
            if (!(*from >= pg_bound(field, i, 0) && *from <= pg_bound(field, i, 1)) || (!real && floor(*from) != *from))
                return field;
        }
    }
    return NULL;
}

/* Read the numbers of a value: a number, an array, or a list of numbers. Return what is wrong, or NULL. */
static inline const char *pg_read_numbers(pg_cursor c, double *to, size_t count) {
    pg_value v = pg_next(&c);
    if (v.kind == 'l') {
        uint64_t left = v.size;
        size_t had = 0;
        for (; left > 0 && !c.bad; left--) {
            v = pg_next(&c);
            if (v.kind == 'l') {
                left += v.size;
                continue;
            }
            if ((v.kind != 'i' && v.kind != 'f' && v.kind != '?') || had == count) return "has another shape";
            to[had++] = v.kind == '?' ? (double)v.number : v.real;
        }
        return had == count && !c.bad ? NULL : "has another shape";
    }
    if (v.kind == 'i' || v.kind == 'f' || v.kind == '?') {
        if (count != 1) return "has another shape";
        *to = v.kind == '?' ? (double)v.number : v.real;
        return v.kind == 'i' && fabs(v.real) > PG_EXACT ? "is too large" : NULL;
    }
    if (v.kind != 'x' || (v.type != 1 && v.type != 2)) return "is no number";
    pg_cursor inner = pg_over(v.data, v.size);
    pg_value parts = pg_next(&inner), dtype = pg_next(&inner), shape = pg_next(&inner);
    uint64_t elements = 1;
    if (parts.kind != 'l' || parts.size != 3 || dtype.kind != 's' || shape.kind != 'l' || shape.size > 64)
        return "is damaged";
    for (size_t i = 0; i < shape.size; i++) {
        pg_value side = pg_next(&inner);
        if (side.kind != 'i' || side.negative || side.number > PG_BODY) return "is damaged";
        elements *= side.number; /* no more than 2^30 times 2^30 */
        if (elements > PG_BODY) return "is too large";
    }
    pg_value data = pg_next(&inner);
    if (data.kind != 'b' || inner.bad || inner.at != inner.end || dtype.size != 3) return "has another dtype";
    char order = (char)dtype.data[0], kind = (char)dtype.data[1];
    size_t width = (size_t)(dtype.data[2] - '0');
    int known = (width == 1 && (kind == 'b' || kind == 'i' || kind == 'u')) ||
                ((width == 2 || width == 4 || width == 8) && (kind == 'i' || kind == 'u' || kind == 'f'));
    if (!known || strchr("<>|=", order) == NULL) return "has another dtype";
    if (data.size != elements * width) return "is damaged";
    if (elements != count) return "has another shape";
    for (size_t i = 0; i < count; i++)
        if (!pg_load(kind, width, order == '>', data.data + i * width, to + i)) return "is too large";
    return NULL;
}

static inline void pg_put_bounds(pg_bytes *b, const pg_field *field, int high) {
    size_t elements = pg_elements(field), shown = 1;
    for (size_t i = 1; i < elements; i++)
        if (pg_bound(field, i, high) != pg_bound(field, 0, high)) shown = elements;
    if (shown > 1) pg_put_list(b, shown);
    for (size_t i = 0; i < shown; i++) {
        double bound = pg_bound(field, i, high);
        if (isinf(bound))
            pg_put_nil(b);
        else if (pg_is_real(field->dtype))
            pg_put_float(b, bound);
        else if (field->dtype == PG_BOOL)
            pg_put_bool(b, bound != 0);
        else
            pg_put_int(b, (int64_t)bound);
    }
}

static inline void pg_put_shape(pg_bytes *b, const pg_field *field) {
    pg_put_list(b, pg_axes(field));
    for (size_t i = 0; i < pg_axes(field); i++) pg_put_int(b, (int64_t)field->shape[i]);
}

static inline void pg_put_single_space(pg_bytes *b, const pg_field *field) {
    int discrete = field->dtype == PG_DISCRETE;
    pg_put_map(b, discrete ? 4 : 5); /* keys in the order that Python has, so that the files are the same */
    pg_put_text(b, "type");
    pg_put_text(b, discrete ? "Discrete" : "Box");
    pg_put_text(b, discrete ? "n" : "shape");
    if (discrete)
        pg_put_int(b, (int64_t)(field->high - field->low) + 1);
    else
        pg_put_shape(b, field);
    pg_put_text(b, discrete ? "start" : "dtype");
    if (discrete)
        pg_put_int(b, (int64_t)field->low);
    else
        pg_put_text(b, pg_code(field->dtype));
    pg_put_text(b, discrete ? "dtype" : "low");
    if (discrete)
        pg_put_text(b, pg_code(field->dtype));
    else
        pg_put_bounds(b, field, 0);
    if (discrete) return;
    pg_put_text(b, "high");
    pg_put_bounds(b, field, 1);
}

static inline void pg_put_space(pg_bytes *b, pg_fields fields) {
    if (fields.count == 0) {
        pg_put_nil(b);
        return;
    }
    if (fields.list[0].name == NULL) {
        pg_put_single_space(b, &fields.list[0]);
        return;
    }
    pg_put_map(b, 2);
    pg_put_text(b, "type");
    pg_put_text(b, "Dict");
    pg_put_text(b, "spaces");
    pg_put_list(b, fields.count);
    for (size_t f = 0; f < fields.count; f++) {
        pg_put_list(b, 2);
        pg_put_text(b, fields.list[f].name);
        pg_put_single_space(b, &fields.list[f]);
    }
}

static inline void pg_put_described(pg_bytes *b, pg_fields fields, int roles) {
    static const char *const names[] = {"additional", "input", "target"};
    if (fields.count == 0) {
        pg_put_nil(b);
        return;
    }
    pg_put_list(b, fields.count);
    for (size_t f = 0; f < fields.count; f++) {
        const pg_field *field = &fields.list[f];
        pg_put_map(b, 5u + (roles && field->feeds != NULL ? 1u : 0u) + (roles && field->dimensions > 0 ? 1u : 0u));
        pg_put_text(b, "name");
        pg_put_text(b, field->name);
        pg_put_text(b, "shape");
        pg_put_shape(b, field);
        pg_put_text(b, "dtype");
        pg_put_text(b, pg_code(field->dtype));
        pg_put_text(b, "role");
        pg_put_text(b, roles ? names[field->role] : "additional");
        pg_put_text(b, "unit");
        pg_put_text(b, field->unit != NULL ? field->unit : "");
        if (roles && field->dimensions > 0) {
            pg_put_text(b, "dimensions");
            pg_put_int(b, field->dimensions);
        }
        if (roles && field->feeds != NULL) {
            pg_put_text(b, "feeds");
            pg_put_text(b, field->feeds);
        }
    }
}

/* Put a map of arrays by name, or the array without a name. `numbers` says what is a number of numpy in place of an
 * array of no axis: nothing (0), one of several (1), any single number (2). */
static inline void pg_put_arrays(pg_bytes *b, pg_fields fields, const double *from, int numbers) {
    if (fields.list[0].name != NULL) pg_put_map(b, fields.count);
    for (size_t f = 0; f < fields.count; f++) {
        const pg_field *field = &fields.list[f];
        size_t elements = pg_elements(field), width = pg_width(field->dtype);
        unsigned char *data = (unsigned char *)pg_take(elements, width);
        for (size_t i = 0; i < elements; i++) (void)pg_store(field->dtype, from[i], data + i * width);
        if (field->name != NULL) pg_put_text(b, field->name);
        int number = numbers == 2 ? pg_axes(field) == 0 : numbers == 1 && field->dtype == PG_DISCRETE;
        pg_put_array(b, number ? 2 : 1, pg_code(field->dtype), field->shape, pg_axes(field), data, elements * width);
        free(data);
        from += elements;
    }
}

/* Draw values uniform over fields, as `physgym.cube.Cube` does; return the name of one without bounds, else NULL. */
static inline const char *pg_draw(pg_fields fields, pg_random *random, double *to) {
    for (size_t f = 0; f < fields.count; f++) {
        const pg_field *field = &fields.list[f];
        size_t elements = pg_elements(field);
        for (size_t i = 0; i < elements; i++) {
            double low = pg_bound(field, i, 0), high = pg_bound(field, i, 1), point;
            if (!(high - low < HUGE_VAL)) return field->name != NULL ? field->name : "";
            point = pg_unit(random);
            if (pg_is_real(field->dtype)) {
                double span = high - low;
                if (low + span < high) span = nextafter(span, HUGE_VAL);
                double scaled = span * point; /* in two steps, each of which is rounded */
                to[i] = pg_as_held(field, fmin(scaled + low, high));
            } else {
                double count = high - low + 1;
                to[i] = low + fmin(floor(point * count), count - 1);
            }
        }
        to += elements;
    }
    return NULL;
}

/* Return what is wrong with a declaration, or NULL. */
static inline const char *pg_wrong_fields(pg_fields fields, int named) {
    size_t size = 0;
    for (size_t f = 0; f < fields.count; f++) {
        const pg_field *field = &fields.list[f];
        size_t bytes = pg_width(field->dtype);
        for (size_t i = 0; i < pg_axes(field); i++) {
            if (field->shape[i] > PG_BODY / bytes) return "a field is too large";
            bytes *= field->shape[i];
        }
        size += bytes;
        if (size > PG_BODY) return "the fields are too large";
        if (field->name == NULL ? named || fields.count > 1 : field->name[0] == 0 || strchr(field->name, '/') != NULL)
            return "a field needs a name without '/'";
        for (size_t other = 0; other < f; other++)
            if (strcmp(field->name, fields.list[other].name) == 0) return "two fields have one name";
        if (field->dtype == PG_DISCRETE && (pg_axes(field) != 0 || field->bounds != NULL))
            return "PG_DISCRETE is one number";
        for (size_t i = 0; i < pg_elements(field); i++) {
            double low = pg_bound(field, i, 0), high = pg_bound(field, i, 1);
            if (!(low <= high)) return "low must not be above high";
            if (!pg_is_real(field->dtype) &&
                !(fabs(low) < PG_EXACT && fabs(high) < PG_EXACT && floor(low) == low && floor(high) == high))
                return "integers need bounds, integers below 2^53 as well";
        }
    }
    return NULL;
}

/* --- a worker and its environments */

typedef struct {
    void **instances; /* one for each set of arguments, made when an episode needs it; see `made` */
    unsigned char *made;
    size_t variant; /* which one runs */
    double *observation, *sample, *parameters;
    pg_random random;
    int seeded, ended, cut; /* cut: its worker takes the place of one that was lost, and no reset has come */
    int has_seed;
    uint64_t seed; /* for the reset after that */
    long steps;
    pg_result result;
} pg_env;

typedef struct {
    size_t env;
    int any;           /* whether it is of no environment in particular */
    const char *error; /* class in Python */
    const char *doing;
    char text[PG_TEXT];
} pg_failure;

typedef struct { /* what waits to be sent of a rollout */
    pg_bytes episodes, steps, ended, begun, rejected_episodes, rejected_steps, reasons;
    pg_bytes rewards, unknown, rejected_places, report_reasons;
    pg_bytes *samples, *rejected, *parameters; /* a column for each field */
    uint64_t ended_count, reported;
    double since;
} pg_part;

typedef struct { /* an episode of a rollout */
    int stopped; /* whether a limit has stopped it, and another rollout may continue with it */
    uint64_t episode, kept, reason_count, rejects;
    long step;
    double reward;
    pg_bytes reasons;
    pg_random random;
} pg_episode;

typedef struct {
    uint64_t max_steps, max_rejects, limit, made;
    int reject, allow, keep_rejected, goes_on, reports;
} pg_rollout;

typedef struct {
    const pg_simulation *simulation;
    pg_link link;
    unsigned char token[512];
    size_t token_size, offered, count, variants;
    pg_env *envs;
    double *settings;       /* of each set of arguments */
    unsigned char *uniform; /* for each of them: whether the run wants uniform actions */
    int mode;
    uint32_t number, asked; /* of the request that is served; of the last one that was received */
    int heard, ready;       /* whether the parent has said a word; whether the worker has described itself */
    pg_bytes body, out;
    pg_part part;
    pg_episode running;
    uint64_t samples; /* of all rollouts, and rejected steps where these are reported */
    double next_look;
    char program[65]; /* SHA-256 of its file, as hexadecimal digits; empty where it is not known */
} pg_worker;

/* Have the connection closed, since the peer has sent what no peer may send. */
static inline int pg_fault(pg_worker *w, const char *what) {
    w->link.trouble = what;
    return 0;
}

static inline void pg_begin(pg_worker *w) {
    w->out.size = 0;
    pg_reserve(&w->out, 16);
    memset(w->out.data, 0, 16);
    w->out.size = 16;
}

static inline int pg_send(pg_worker *w, int type) {
    w->out.data[0] = 'P';
    w->out.data[1] = 'G';
    w->out.data[2] = PG_VERSION;
    w->out.data[3] = (unsigned char)type;
    pg_number_le(w->out.data + 4, w->ready ? w->number : 0, 4);
    pg_number_le(w->out.data + 8, w->out.size - 16, 8);
    return pg_write(&w->link, w->out.data, w->out.size);
}

#define PG_BIT(type) ((uint32_t)1 << (type))

/* Receive a frame, into w->body; return its type, or -1 where the connection is to be closed. */
static inline int pg_receive(pg_worker *w, uint32_t legal, uint64_t most) {
    pg_link *link = &w->link;
    link->trouble = NULL;
    if (!pg_fill(link, 16, 1)) return -1;
    const unsigned char *head = link->in.data + link->taken;
    unsigned type = head[3];
    uint64_t length = pg_number_of(head + 8, 8);
    uint32_t number = (uint32_t)pg_number_of(head + 4, 4);
    if (head[0] != 'P' || head[1] != 'G')
        return pg_fault(w, "it sends no frames of physgym; perhaps it speaks TLS"), -1;
    if (head[2] != PG_VERSION) return pg_fault(w, "it speaks another version of the protocol; update one of both"), -1;
    if (type > PG_REFUSAL) return pg_fault(w, "it sends an unknown message"), -1;
    if (length > most) return pg_fault(w, "it sends a message that is too large"), -1;
    if (!(legal & PG_BIT(type))) return pg_fault(w, "it sends a message that it may not send now"), -1;
    int asks = w->ready && type != PG_WATCH_SCENES && type != PG_GIVE_INPUTS;
    if (number != (asks ? w->asked + 1u : w->ready ? w->asked : 0u))
        return pg_fault(w, "it numbers its messages wrongly"), -1;
    if (!pg_fill(link, 16 + (size_t)length, 1)) return -1;
    w->body.size = 0;
    pg_put(&w->body, link->in.data + link->taken + 16, (size_t)length);
    link->taken += 16 + (size_t)length;
    if (asks) w->asked = w->number = number;
    if (type != PG_STEP && !pg_is_whole(w->body.data, w->body.size))
        return pg_fault(w, "it sends a body that is no value"), -1;
    return (int)type;
}

/* Look, now and then, what has come while a request is served: 1 where the run wants to close, -1 where it is gone. */
static inline int pg_look(pg_worker *w) {
    pg_link *link = &w->link;
    double now = pg_now();
    if (now < w->next_look) return 0;
    w->next_look = now + PG_LOOK_SECONDS;
    if (pg_here(link) < PG_AHEAD && !pg_fill(link, PG_AHEAD, 0)) return -1;
    const unsigned char *at = link->in.data + link->taken;
    size_t left = pg_here(link);
    while (left >= 16 && at[0] == 'P' && at[1] == 'G') {
        uint64_t length = pg_number_of(at + 8, 8);
        if (at[3] == PG_CLOSE) return 1;
        if (length > left - 16) break;
        at += 16 + (size_t)length;
        left -= 16 + (size_t)length;
    }
    return 0;
}

static inline void pg_put_failure(pg_bytes *b, const pg_failure *failure) {
    pg_put_map(b, 5);
    pg_put_text(b, "env");
    if (failure->any)
        pg_put_number(b, 0xFF, 1); /* -1 */
    else
        pg_put_int(b, (int64_t)failure->env);
    pg_put_text(b, "error");
    pg_put_text(b, failure->error);
    pg_put_text(b, "message");
    pg_put_text(b, failure->text);
    pg_put_text(b, "traceback");
    pg_put_text(b, "");
    pg_put_text(b, "doing");
    pg_put_text(b, failure->doing);
}

static inline int pg_send_failure(pg_worker *w, const pg_failure *failure) {
    pg_begin(w);
    pg_put_failure(&w->out, failure);
    return pg_send(w, PG_FAILURE);
}

#define PG_CONFIG_ERROR "physgym.errors:ConfigError"
#define PG_SAMPLE_ERROR "physgym.errors:SampleError"
#define PG_CLOSED_ERROR "physgym.errors:ClosedError"
#define PG_ENV_ERROR "builtins:RuntimeError"
#define PG_NO_ATTRIBUTE "builtins:AttributeError"

/* Note a failure; return 0. */
static inline int pg_failed(pg_failure *failure, const char *error, const char *format, ...) PG_PRINTS(3, 4);
static inline int pg_failed(pg_failure *failure, const char *error, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(failure->text, PG_TEXT, format, values);
    va_end(values);
    failure->error = error;
    return 0;
}

static inline void pg_free_columns(pg_bytes *columns, size_t count) {
    for (size_t i = 0; columns != NULL && i < count; i++) pg_free(&columns[i]);
    free(columns);
}

static inline pg_bytes *pg_columns(size_t count) { return (pg_bytes *)pg_take(count, sizeof(pg_bytes)); }

/* Make the environment of a set of arguments, where it is not there yet. */
static inline int pg_make(pg_worker *w, pg_env *env, size_t variant, pg_failure *failure) {
    const pg_simulation *s = w->simulation;
    env->variant = variant;
    if (env->made[variant]) return 1;
    if (s->make != NULL) {
        char text[PG_TEXT] = "";
        env->instances[variant] = s->make(w->settings + variant * s->setting_count, text);
        if (env->instances[variant] == NULL)
            return pg_failed(failure, PG_ENV_ERROR, "%s", text[0] ? text : "the environment could not be made");
    }
    env->made[variant] = 1;
    return 1;
}

static inline void pg_free_envs(pg_worker *w) {
    const pg_simulation *s = w->simulation;
    for (size_t i = 0; w->envs != NULL && i < w->count; i++) {
        pg_env *env = &w->envs[i];
        for (size_t variant = 0; variant < w->variants; variant++)
            if (env->made[variant] && s->close != NULL) s->close(env->instances[variant]);
        free(env->instances);
        free(env->made);
        free(env->observation);
        free(env->sample);
        free(env->parameters);
    }
    free(w->envs);
    free(w->settings);
    free(w->uniform);
    w->envs = NULL;
    w->settings = NULL;
    w->uniform = NULL;
    w->count = w->variants = 0;
}

static inline void pg_set_up(pg_worker *w, const pg_simulation *simulation, size_t envs) {
    w->simulation = simulation;
    w->offered = envs;
    w->link.file = -1;
    w->part.samples = pg_columns(simulation->sample.count);
    w->part.rejected = pg_columns(simulation->sample.count);
    w->part.parameters = pg_columns(simulation->parameters.count);
}

static inline void pg_free_worker(pg_worker *w) {
    const pg_simulation *s = w->simulation;
    pg_part *part = &w->part;
    pg_bytes *all[] = {
        &part->episodes,       &part->steps,        &part->ended,   &part->begun,   &part->rejected_episodes,
        &part->rejected_steps, &part->reasons,      &part->rewards, &part->unknown, &part->rejected_places,
        &part->report_reasons, &w->running.reasons, &w->body,       &w->out};
    pg_free_envs(w);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pg_free(all[i]);
    pg_free_columns(part->samples, s->sample.count);
    pg_free_columns(part->rejected, s->sample.count);
    pg_free_columns(part->parameters, s->parameters.count);
    pg_hang_up(&w->link);
}

/* Take parameters that the run gives, by name. */
static inline int pg_take_parameters(pg_worker *w, pg_env *env, pg_cursor given, pg_failure *failure) {
    const pg_fields fields = w->simulation->parameters;
    pg_value map = pg_next(&given);
    if (map.kind != 'm') return pg_failed(failure, PG_CONFIG_ERROR, "options['parameters'] must be a map by name");
    for (size_t entry = 0; entry < map.size; entry++) {
        pg_value name = pg_next(&given);
        pg_cursor value = given;
        size_t f = 0, place = 0;
        if (name.kind != 's') return pg_failed(failure, PG_CONFIG_ERROR, "a parameter has no name");
        pg_skip(&given);
        for (; f < fields.count && !pg_is_text(&name, fields.list[f].name); f++) place += pg_elements(&fields.list[f]);
        if (f == fields.count)
            return pg_failed(failure, PG_CONFIG_ERROR, "there is no parameter '%.*s'",
                             (int)(name.size < 100 ? name.size : 100), (const char *)name.data);
        const pg_field *field = &fields.list[f];
        const char *wrong = pg_read_numbers(value, env->parameters + place, pg_elements(field));
        if (wrong != NULL) return pg_failed(failure, PG_CONFIG_ERROR, "parameter '%s' %s", field->name, wrong);
        for (size_t i = 0; i < pg_elements(field); i++)
            env->parameters[place + i] = pg_as_held(field, env->parameters[place + i]);
        if (pg_outside(pg_fields_of(field, 1), env->parameters + place, 1) != NULL)
            return pg_failed(failure, PG_CONFIG_ERROR, "parameter '%s' is not within its bounds, %g to %g%s",
                             field->name, pg_bound(field, 0, 0), pg_bound(field, 0, 1),
                             pg_elements(field) > 1 ? " (of the first element)" : "");
    }
    return 1;
}

/* Reset an environment, with the seed of its state or a new one, and options: a map, or nil. */
static inline int pg_reset_env(pg_worker *w, pg_env *env, const uint64_t *seed, pg_cursor options,
                               pg_failure *failure) {
    const pg_simulation *s = w->simulation;
    pg_cursor given = pg_over(NULL, 0);
    pg_value map = pg_next(&options);
    size_t variant = 0;
    int any = 0;    /* whether there are parameters among them */
    env->ended = 1; /* should it fail */
    for (size_t entry = 0; map.kind == 'm' && entry < map.size; entry++) {
        pg_value name = pg_next(&options);
        pg_cursor value = options;
        pg_value what;
        if (name.kind != 's') return pg_failed(failure, PG_CONFIG_ERROR, "an option of a reset has no name");
        pg_skip(&options);
        what = pg_next(&value);
        if (pg_is_text(&name, "parameters")) {
            given = pg_over(name.data + name.size, (size_t)(options.at - (name.data + name.size)));
            any = what.kind != 'm' || what.size > 0;
        } else if (pg_is_text(&name, "physgym/arguments") && what.kind == 'i' && what.number < w->variants) {
            variant = (size_t)what.number;
        } else {
            return pg_failed(failure, PG_CONFIG_ERROR, "the option '%.*s' of a reset is unknown here",
                             (int)(name.size < 100 ? name.size : 100), (const char *)name.data);
        }
    }
    if (!pg_make(w, env, variant, failure)) return 0;
    if (seed == NULL && env->has_seed) seed = &env->seed;
    if (seed != NULL) {
        env->random = pg_seeded(*seed);
    } else if (!env->seeded) {
        unsigned char own[8];
        if (!pg_from_system(own, sizeof own)) return pg_failed(failure, PG_ENV_ERROR, "there is no /dev/urandom");
        env->random = pg_seeded(pg_number_of(own, sizeof own));
    }
    env->seeded = 1;
    env->has_seed = env->cut = 0;
    if (s->parameters.count > 0) {
        const char *unbounded = NULL;
        if (s->draw_parameters != NULL)
            s->draw_parameters(&env->random, env->parameters);
        else
            unbounded = pg_draw(s->parameters, &env->random, env->parameters);
        if (unbounded != NULL)
            return pg_failed(failure, PG_CONFIG_ERROR, "parameter '%s' has no bounds to draw from", unbounded);
        if (any && !pg_take_parameters(w, env, given, failure)) return 0;
    } else if (any) {
        return pg_failed(failure, PG_CONFIG_ERROR, "%s has no parameters, and some are given", s->id);
    }
    env->result.text[0] = 0;
    env->result.reward = 0;
    env->result.terminated = env->result.truncated = 0;
    env->steps = 0;
    if (s->reset(env->instances[variant], env->parameters, &env->random, &env->result) != PG_OK)
        return pg_failed(failure, PG_ENV_ERROR, "%s", env->result.text[0] ? env->result.text : "the reset failed");
    env->ended = 0;
    return 1;
}

/* Make a step; return PG_OK, PG_REJECTED or PG_FAILED. */
static inline int pg_step_env(pg_worker *w, pg_env *env, const double *action, pg_failure *failure) {
    const pg_simulation *s = w->simulation;
    pg_result *result = &env->result;
    result->text[0] = 0;
    result->reward = 0;
    result->terminated = result->truncated = result->rejected_sample = 0;
    int code = s->step(env->instances[env->variant], action, &env->random, result);
    if (code != PG_OK && code != PG_REJECTED) {
        pg_failed(failure, PG_ENV_ERROR, "%s", result->text[0] ? result->text : "the step failed");
        return PG_FAILED;
    }
    env->steps++;
    if (s->max_episode_steps > 0 && env->steps >= s->max_episode_steps) result->truncated = 1;
    if (result->text[0] == 0 && code == PG_REJECTED) pg_say(result, code, "the step was rejected");
    return code;
}

/* Note that a field of a sample is not finite. */
static inline int pg_say_not_finite(pg_worker *w, size_t field, const char *where, pg_failure *failure) {
    return pg_failed(failure, PG_SAMPLE_ERROR, "%s: field '%s' has a value that is not finite", where,
                     w->simulation->sample.list[field].name);
}

/* --- Reset and Step */

typedef struct { /* what their answer has beside its arrays */
    pg_bytes which, infos, failures, cut;
    size_t info_count, failure_count, cut_count;
} pg_remarks;

/* Put the entries of the info of a step into a map that has `more` others. */
static inline void pg_put_step_info(pg_bytes *b, pg_worker *w, pg_env *env, int code, uint64_t more) {
    const pg_fields sample = w->simulation->sample;
    int kept = code == PG_REJECTED && env->result.rejected_sample && sample.count > 0;
    pg_put_map(b, more + (code == PG_REJECTED ? 1u : sample.count > 0) + (kept ? 1u : 0u));
    if (code == PG_REJECTED) {
        pg_put_text(b, "rejected");
        pg_put_text(b, env->result.text);
    }
    if (kept || (code == PG_OK && sample.count > 0)) {
        pg_put_text(b, kept ? "rejected_sample" : "sample");
        pg_put_arrays(b, sample, env->sample, 0);
    }
}

static inline void pg_put_parameters(pg_bytes *b, pg_worker *w, pg_env *env) {
    if (w->simulation->parameters.count == 0) return;
    pg_put_text(b, "parameters");
    pg_put_arrays(b, w->simulation->parameters, env->parameters, 2);
}

static inline void pg_remark_failure(pg_remarks *remarks, pg_env *env, const pg_failure *failure) {
    env->ended = 1;
    pg_put_failure(&remarks->failures, failure);
    remarks->failure_count++;
}

static inline void pg_remark_info(pg_remarks *remarks, size_t index) {
    pg_put_int(&remarks->which, (int64_t)index);
    remarks->info_count++;
}

/* Send Results of some environments, `rows`, or of all (NULL). */
static inline int pg_send_results(pg_worker *w, const uint32_t *rows, size_t count, pg_remarks *remarks) {
    const pg_fields fields = w->simulation->observation;
    pg_bytes *columns = pg_columns(fields.count), *b = &w->out;
    double *zero = (double *)pg_take(pg_numbers_of(fields), sizeof *zero);
    for (size_t i = 0; i < count; i++) {
        size_t index = rows != NULL ? rows[i] : i;
        const char *wrong = pg_store_row(fields, w->envs[index].observation, columns);
        if (wrong != NULL) {
            pg_failure failure;
            memset(&failure, 0, sizeof failure);
            failure.env = index;
            failure.doing = "observation";
            pg_failed(&failure, PG_SAMPLE_ERROR, "'%s' of the observation has a number that its dtype does not hold",
                      wrong);
            pg_remark_failure(remarks, &w->envs[index], &failure);
            pg_store_row(fields, zero, columns);
        }
    }
    pg_begin(w);
    pg_put_number(b, (uint64_t)(PG_LAST | PG_INLINE) << 8, 4);
    pg_put_number(b, rows != NULL ? count : PG_ALL, 4);
    for (size_t i = 0; rows != NULL && i < count; i++) pg_put_number(b, rows[i], 4);
    for (size_t f = 0; f < fields.count; f++) pg_put(b, columns[f].data, columns[f].size);
    for (size_t i = 0; i < count; i++) pg_put_double(b, w->envs[rows != NULL ? rows[i] : i].result.reward);
    for (size_t i = 0; i < count; i++) pg_put_number(b, w->envs[rows != NULL ? rows[i] : i].result.terminated != 0, 1);
    for (size_t i = 0; i < count; i++) pg_put_number(b, w->envs[rows != NULL ? rows[i] : i].result.truncated != 0, 1);
    if (remarks->info_count + remarks->failure_count + remarks->cut_count > 0) {
        pg_put_list(b, 4);
        if (remarks->info_count > 0) { /* a tuple of indices and infos */
            pg_bytes tuple;
            memset(&tuple, 0, sizeof tuple);
            pg_put_list(&tuple, 2);
            pg_put_list(&tuple, remarks->info_count);
            pg_put(&tuple, remarks->which.data, remarks->which.size);
            pg_put_list(&tuple, remarks->info_count);
            pg_put(&tuple, remarks->infos.data, remarks->infos.size);
            pg_put_ext(b, 3, tuple.size);
            pg_put(b, tuple.data, tuple.size);
            pg_free(&tuple);
        } else {
            pg_put_nil(b);
        }
        pg_put_list(b, 0);
        pg_put_list(b, remarks->failure_count);
        pg_put(b, remarks->failures.data, remarks->failures.size);
        pg_put_list(b, remarks->cut_count);
        pg_put(b, remarks->cut.data, remarks->cut.size);
    }
    pg_free_columns(columns, fields.count);
    free(zero);
    pg_free(&remarks->which);
    pg_free(&remarks->infos);
    pg_free(&remarks->failures);
    pg_free(&remarks->cut);
    return pg_send(w, PG_RESULTS);
}

/* Read a seed: 1 where there is one, 0 for nil, -1 for one that no generator takes here. */
static inline int pg_read_seed(const pg_value *v, uint64_t *seed) {
    *seed = v->number;
    return v->kind == 'n' ? 0 : v->kind == 'i' && !v->negative ? 1 : -1;
}

static inline int pg_serve_reset(pg_worker *w) {
    pg_cursor found[4], body = pg_over(w->body.data, w->body.size);
    pg_remarks remarks;
    memset(&remarks, 0, sizeof remarks);
    if (!pg_read_map(&body, "slot seeds mask options", "illM", found, 0)) return pg_fault(w, "its Reset is wrong");
    pg_value slot = pg_next(&found[0]), seeds = pg_next(&found[1]), mask = pg_next(&found[2]);
    pg_cursor seed = found[1], wanted = found[2];
    int right =
        slot.kind == 'i' && !slot.negative && slot.number < 256 && seeds.size == w->count && mask.size == w->count;
    for (size_t i = 0; right && i < w->count; i++) {
        pg_value one = pg_next(&seed), flag = pg_next(&wanted);
        right = flag.kind == '?' && (one.kind == 'n' || pg_is_kind(&one, 'i'));
    }
    if (!right) return pg_fault(w, "its Reset is wrong");
    for (size_t i = 0; i < w->count; i++) {
        pg_env *env = &w->envs[i];
        pg_value one = pg_next(&found[1]), flag = pg_next(&found[2]);
        pg_failure failure;
        uint64_t number;
        int has = pg_read_seed(&one, &number), cut = env->cut;
        if (!flag.number) continue;
        memset(&failure, 0, sizeof failure);
        failure.env = i;
        failure.doing = "reset";
        if (has < 0) pg_failed(&failure, PG_CONFIG_ERROR, "a seed must be an integer from 0 to 2^64 - 1");
        if (has < 0 || !pg_reset_env(w, env, has ? &number : NULL, found[3], &failure)) {
            pg_remark_failure(&remarks, env, &failure);
        } else if (cut || w->simulation->parameters.count > 0) {
            pg_put_map(&remarks.infos, (cut ? 1u : 0u) + (w->simulation->parameters.count > 0 ? 1u : 0u));
            pg_put_parameters(&remarks.infos, w, env);
            if (cut) {
                pg_put_text(&remarks.infos, "worker_restarted");
                pg_put_bool(&remarks.infos, 1);
            }
            pg_remark_info(&remarks, i);
        }
    }
    return pg_send_results(w, NULL, w->count, &remarks);
}

/* Make the step of one environment for Step, or the reset that takes its place. */
static inline void pg_step_one(pg_worker *w, size_t index, const double *action, pg_remarks *remarks) {
    pg_env *env = &w->envs[index];
    int has_parameters = w->simulation->parameters.count > 0, samples = w->simulation->sample.count > 0;
    pg_failure failure;
    memset(&failure, 0, sizeof failure);
    failure.env = index;
    failure.doing = "step";
    if (env->ended) { /* NEXT_STEP, or the worker takes the place of one that was lost */
        int cut = env->cut, resets = !cut || w->mode == PG_SAME_STEP, ok = 1;
        if (!cut && w->mode == PG_DISABLED)
            ok = pg_failed(&failure, PG_CONFIG_ERROR, "the episode has ended; reset the environment");
        else if (resets)
            ok = pg_reset_env(w, env, NULL, pg_over(NULL, 0), &failure);
        if (!ok) {
            pg_remark_failure(remarks, env, &failure);
            return;
        }
        env->result.reward = 0;
        env->result.terminated = 0;
        env->result.truncated = cut;
        env->cut = 0;
        if (cut) {
            pg_put_int(&remarks->cut, (int64_t)index);
            remarks->cut_count++;
        }
        if (cut || has_parameters) {
            pg_put_map(&remarks->infos, (cut ? 1u : 0u) + (resets && has_parameters ? 1u : 0u));
            if (resets) pg_put_parameters(&remarks->infos, w, env);
            if (cut) {
                pg_put_text(&remarks->infos, "worker_restarted");
                pg_put_bool(&remarks->infos, 1);
            }
            pg_remark_info(remarks, index);
        }
        return;
    }
    const pg_field *outside = pg_outside(w->simulation->action, action, 0);
    int code = PG_FAILED;
    if (outside != NULL)
        pg_failed(&failure, PG_CONFIG_ERROR, "the action %s is none of its integers",
                  outside->name ? outside->name : "");
    else
        code = pg_step_env(w, env, action, &failure);
    if (code == PG_OK && samples) {
        size_t wrong = pg_not_finite(w->simulation->sample, env->sample);
        if (wrong < w->simulation->sample.count) {
            pg_say_not_finite(w, wrong, w->simulation->id, &failure);
            code = PG_FAILED;
        }
    }
    if (code == PG_FAILED) {
        pg_remark_failure(remarks, env, &failure);
        return;
    }
    env->ended = env->result.terminated || env->result.truncated;
    if (!env->ended || w->mode != PG_SAME_STEP) {
        if (samples || code == PG_REJECTED) {
            pg_put_step_info(&remarks->infos, w, env, code, 0);
            pg_remark_info(remarks, index);
        }
        return;
    }
    double reward = env->result.reward;
    int terminated = env->result.terminated, truncated = env->result.truncated;
    size_t before = remarks->infos.size;
    pg_put_map(&remarks->infos, has_parameters ? 3 : 2);
    pg_put_text(&remarks->infos, "final_obs");
    pg_put_arrays(&remarks->infos, w->simulation->observation, env->observation, 1);
    pg_put_text(&remarks->infos, "final_info");
    pg_put_step_info(&remarks->infos, w, env, code, 0);
    if (!pg_reset_env(w, env, NULL, pg_over(NULL, 0), &failure)) {
        remarks->infos.size = before;
        pg_remark_failure(remarks, env, &failure);
        return;
    }
    pg_put_parameters(&remarks->infos, w, env);
    pg_remark_info(remarks, index);
    env->result.reward = reward;
    env->result.terminated = terminated;
    env->result.truncated = truncated;
}

/* Read the actions that stand in a Step as values, in place of those of its batch; return 0 for what is no Step. */
static inline int pg_read_actions(pg_worker *w, pg_cursor rest, int batch, size_t count, double *actions,
                                  const char **wrong) {
    const pg_fields fields = w->simulation->action;
    size_t row = pg_numbers_of(fields), place = 0;
    pg_value list = pg_next(&rest);
    if (list.kind != 'l' || list.size != fields.count) return 0;
    for (size_t f = 0; f < fields.count; f++) {
        size_t elements = pg_elements(&fields.list[f]);
        pg_cursor value = rest;
        pg_value what = pg_next(&value);
        if (what.kind == 'n' && !batch) return 0;
        if (what.kind == 'l') {
            if (what.size != count) return 0;
            for (size_t i = 0; i < count; i++) {
                const char *why = pg_read_numbers(value, actions + i * row + place, elements);
                if (why != NULL) wrong[i] = why;
                pg_skip(&value);
            }
        } else if (what.kind != 'n') {
            double *all = (double *)pg_take(count * elements, sizeof *all);
            const char *why = pg_read_numbers(rest, all, count * elements);
            for (size_t i = 0; i < count; i++) {
                memcpy(actions + i * row + place, all + i * elements, elements * sizeof *all);
                if (why != NULL) wrong[i] = why;
            }
            free(all);
        }
        pg_skip(&rest);
        place += elements;
    }
    return 1;
}

static inline int pg_serve_step(pg_worker *w) {
    const pg_fields fields = w->simulation->action;
    const unsigned char *at = w->body.data;
    size_t left = w->body.size, count = w->count, row = pg_numbers_of(fields), bytes = pg_bytes_of(fields);
    uint32_t *rows = NULL;
    if (left < 8) return pg_fault(w, "its Step is wrong");
    unsigned flags = at[1];
    uint32_t named = (uint32_t)pg_number_of(at + 4, 4);
    if ((flags & ~5u) != 0 || at[2] != 0 || at[3] != 0) return pg_fault(w, "its Step has unknown flags");
    if (named != PG_ALL && (named > w->count || (left - 8) / 4 < named)) return pg_fault(w, "its Step is wrong");
    at += 8;
    left -= 8;
    if (named != PG_ALL) {
        unsigned char *seen = (unsigned char *)pg_take(w->count, 1);
        int right = 1;
        count = named;
        rows = (uint32_t *)pg_take(count, sizeof *rows);
        for (size_t i = 0; i < count && right; i++) {
            rows[i] = (uint32_t)pg_number_of(at + 4 * i, 4);
            right = rows[i] < w->count && !seen[rows[i]];
            if (right) seen[rows[i]] = 1;
        }
        free(seen);
        if (!right) {
            free(rows);
            return pg_fault(w, "its Step names wrong environments");
        }
        at += 4 * count;
        left -= 4 * count;
    }
    size_t batch = flags & PG_INLINE ? count * bytes : 0;
    double *actions = (double *)pg_take(count * row, sizeof *actions);
    const char **wrong = (const char **)pg_take(count, sizeof *wrong);
    int right = left >= batch, sent = 0;
    if (right && (flags & PG_INLINE)) {
        size_t place = 0;
        for (size_t f = 0; f < fields.count; f++) {
            size_t size = pg_elements(&fields.list[f]) * pg_width(fields.list[f].dtype);
            for (size_t i = 0; i < count; i++, at += size)
                pg_load_field(&fields.list[f], at, actions + i * row + place);
            place += pg_elements(&fields.list[f]);
        }
        left -= batch;
    }
    if (right && left > 0)
        right = pg_is_whole(at, left) &&
                pg_read_actions(w, pg_over(at, left), (flags & PG_INLINE) != 0, count, actions, wrong);
    else if (right && !(flags & PG_INLINE) && count > 0)
        right = 0; /* they would be in shared memory, and there is none */
    if (!right) {
        pg_fault(w, "the actions of its Step are wrong");
    } else {
        pg_remarks remarks;
        memset(&remarks, 0, sizeof remarks);
        for (size_t i = 0; i < count; i++) {
            size_t index = rows != NULL ? rows[i] : i;
            if (wrong[i] != NULL) {
                pg_failure failure;
                memset(&failure, 0, sizeof failure);
                failure.env = index;
                failure.doing = "step";
                pg_failed(&failure, PG_CONFIG_ERROR, "the action %s", wrong[i]);
                pg_remark_failure(&remarks, &w->envs[index], &failure);
            } else {
                pg_step_one(w, index, actions + i * row, &remarks);
            }
        }
        sent = pg_send_results(w, rows, count, &remarks);
    }
    free(rows);
    free(actions);
    free(wrong);
    return sent;
}

/* --- Rollout */

static inline void pg_clear_part(pg_worker *w) {
    pg_part *part = &w->part;
    pg_bytes *all[] = {&part->episodes,          &part->steps,           &part->ended,         &part->begun,
                       &part->rejected_episodes, &part->rejected_steps,  &part->reasons,       &part->rewards,
                       &part->unknown,           &part->rejected_places, &part->report_reasons};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) all[i]->size = 0;
    for (size_t f = 0; f < w->simulation->sample.count; f++) part->samples[f].size = part->rejected[f].size = 0;
    for (size_t f = 0; f < w->simulation->parameters.count; f++) part->parameters[f].size = 0;
    part->ended_count = part->reported = 0;
    part->since = pg_now();
}

/* Send what waits of a rollout, and begin the next part. */
static inline int pg_send_part(pg_worker *w, int reports, int last) {
    pg_part *part = &w->part;
    pg_bytes head, *b = &w->out;
    memset(&head, 0, sizeof head);
    pg_put_list(&head, 7);
    pg_put_column(&head, "<i8", &part->episodes);
    pg_put_column(&head, "<i8", &part->steps);
    pg_put_list(&head, part->ended_count);
    pg_put(&head, part->ended.data, part->ended.size);
    pg_put_bool(&head, last);
    if (part->begun.size > 0)
        pg_put_column(&head, "<i8", &part->begun);
    else
        pg_put_nil(&head);
    if (part->rejected_steps.size > 0) {
        pg_put_list(&head, 3);
        pg_put_column(&head, "<i8", &part->rejected_episodes);
        pg_put_column(&head, "<i8", &part->rejected_steps);
        pg_put_list(&head, part->rejected_steps.size / 8);
        pg_put(&head, part->reasons.data, part->reasons.size);
    } else {
        pg_put_nil(&head);
    }
    if (reports) {
        pg_put_list(&head, 5);
        pg_put_column(&head, "<f8", &part->rewards);
        pg_put_column(&head, "<f8", &part->unknown);
        pg_put_column(&head, "<f8", &part->unknown);
        pg_put_column(&head, "<i8", &part->rejected_places);
        pg_put_list(&head, part->rejected_places.size / 8);
        pg_put(&head, part->report_reasons.data, part->report_reasons.size);
    } else {
        pg_put_nil(&head);
    }
    pg_begin(w);
    pg_put_number(b, head.size, 4);
    pg_put(b, head.data, head.size);
    pg_free(&head);
    for (size_t f = 0; f < w->simulation->sample.count; f++) pg_put(b, part->samples[f].data, part->samples[f].size);
    for (size_t f = 0; f < w->simulation->parameters.count; f++)
        pg_put(b, part->parameters[f].data, part->parameters[f].size);
    for (size_t f = 0; f < w->simulation->sample.count; f++) pg_put(b, part->rejected[f].data, part->rejected[f].size);
    pg_clear_part(w);
    return pg_send(w, PG_ROLLOUT_RESULT);
}

static inline int pg_part_is_due(pg_worker *w) {
    pg_part *part = &w->part;
    size_t row = pg_bytes_of(w->simulation->sample), most = 1 + PG_PART / (row ? row : 1);
    size_t steps = part->steps.size / 8;
    if (steps + part->rejected_steps.size / 8 >= most) return 1;
    return pg_now() - part->since > (steps > 0 ? PG_PART_SECONDS : PG_SIGN_OF_LIFE);
}

/* Begin the episode that an entry of a Rollout names. */
static inline int pg_begin_episode(pg_worker *w, pg_env *env, pg_cursor entry, pg_failure *failure) {
    pg_episode *running = &w->running;
    pg_value parts = pg_next(&entry), index = pg_next(&entry), seed = pg_next(&entry);
    pg_cursor options = parts.size > 2 ? entry : pg_over(NULL, 0);
    uint64_t number = 0;
    running->stopped = 0;
    running->episode = index.number;
    running->kept = running->reason_count = running->rejects = 0;
    running->step = 0;
    running->reward = 0;
    running->reasons.size = 0;
    if (pg_read_seed(&seed, &number) != 1)
        return pg_failed(failure, PG_CONFIG_ERROR, "a seed must be an integer from 0 to 2^64 - 1");
    running->random = pg_of_actions(number);
    if (!pg_reset_env(w, env, &number, options, failure)) return 0;
    env->ended = 1; /* where the parent steps it after the rollout */
    if (w->simulation->parameters.count > 0) {
        const char *wrong = pg_store_row(w->simulation->parameters, env->parameters, w->part.parameters);
        if (wrong != NULL)
            return pg_failed(failure, PG_SAMPLE_ERROR, "parameter '%s' has a number that its dtype does not hold",
                             wrong);
        pg_put_number(&w->part.begun, running->episode, 8);
    }
    return 1;
}

static inline int pg_draw_action(pg_worker *w, pg_env *env, double *action, pg_failure *failure) {
    const pg_simulation *s = w->simulation;
    if (s->draw_action != NULL && !w->uniform[env->variant]) {
        s->draw_action(env->instances[env->variant], &w->running.random, action);
        return 1;
    }
    if (pg_draw(s->action, &w->running.random, action) == NULL) return 1;
    return pg_failed(failure, PG_CONFIG_ERROR, "the actions of %s have no bounds to draw from; give it draw_action",
                     s->id);
}

static inline void pg_reject(pg_worker *w, pg_env *env, const pg_rollout *request, const char *reason, int has_sample) {
    pg_part *part = &w->part;
    pg_put_int(&w->running.reasons, w->running.step);
    pg_put_text(&w->running.reasons, reason);
    w->running.reason_count++;
    w->running.rejects++;
    if (request->reports) {
        pg_put_number(&part->rejected_places, part->reported, 8);
        pg_put_text(&part->report_reasons, reason);
    }
    if (!request->keep_rejected || !has_sample) return;
    if (pg_store_row(w->simulation->sample, env->sample, part->rejected) != NULL) return; /* it need not have one */
    pg_put_number(&part->rejected_episodes, w->running.episode, 8);
    pg_put_number(&part->rejected_steps, (uint64_t)w->running.step, 8);
    pg_put_text(&part->reasons, reason);
}

/* Take the sample of a step, or reject it. */
static inline int pg_take_step(pg_worker *w, pg_env *env, const pg_rollout *request, int code, int ends,
                               pg_failure *failure) {
    const pg_fields fields = w->simulation->sample;
    pg_part *part = &w->part;
    size_t wrong = fields.count;
    char where[64];
    snprintf(where, sizeof where, "episode %llu, step %ld", (unsigned long long)w->running.episode, w->running.step);
    if (code == PG_OK && !request->allow) wrong = pg_not_finite(fields, env->sample);
    if (wrong < fields.count && !request->reject) return pg_say_not_finite(w, wrong, where, failure);
    if (code == PG_OK && wrong == fields.count) {
        if (ends && !env->result.terminated) { /* a sample that says so */
            double *number = env->sample;
            for (size_t f = 0; f < fields.count; number += pg_elements(&fields.list[f++]))
                if (strcmp(fields.list[f].name, "truncated") == 0 && pg_axes(&fields.list[f]) == 0 &&
                    !pg_is_real(fields.list[f].dtype))
                    *number = 1;
        }
        const char *name = pg_store_row(fields, env->sample, part->samples);
        if (name != NULL)
            return pg_failed(failure, PG_SAMPLE_ERROR, "%s: field '%s' has a number that its dtype does not hold",
                             where, name);
        w->running.kept++;
        w->running.rejects = 0;
        w->samples++;
    } else {
        if (code == PG_OK) pg_say(&env->result, 0, "%s not finite", fields.list[wrong].name);
        pg_reject(w, env, request, env->result.text, code == PG_OK || env->result.rejected_sample);
        w->samples += request->reports ? 1u : 0u;
    }
    if (code == PG_OK && wrong == fields.count ? 1 : request->reports) {
        pg_put_number(&part->episodes, w->running.episode, 8);
        pg_put_number(&part->steps, (uint64_t)w->running.step, 8);
    }
    if (request->reports) {
        pg_put_double(&part->rewards, env->result.reward);
        pg_put_double(&part->unknown, NAN);
        part->reported++;
    }
    return 1;
}

static inline void pg_end_episode(pg_worker *w, pg_env *env) {
    pg_bytes *b = &w->part.ended;
    pg_put_list(b, 6);
    pg_put_int(b, (int64_t)w->running.episode);
    pg_put_int(b, w->running.step);
    pg_put_int(b, (int64_t)w->running.kept);
    pg_put_float(b, w->running.reward);
    pg_put_map(b, w->running.reason_count);
    pg_put(b, w->running.reasons.data, w->running.reasons.size);
    pg_put_text(b, env->result.terminated ? "terminated" : env->result.truncated ? "truncated" : "cut");
    w->part.ended_count++;
}

static inline int pg_is_enough(pg_worker *w, const pg_rollout *request) {
    return request->limit > 0 && w->samples >= request->made && w->samples - request->made >= request->limit;
}

/* Run the rest of an episode: 1 at its end or at the limit, 0 for a failure, -1 where the connection is over. */
static inline int pg_run_episode(pg_worker *w, pg_env *env, const pg_rollout *request, double *action,
                                 pg_failure *failure) {
    for (int last = 0; !last;) {
        if (!pg_draw_action(w, env, action, failure)) return 0;
        int code = pg_step_env(w, env, action, failure);
        if (code == PG_FAILED) return 0;
        last = env->result.terminated || env->result.truncated || (uint64_t)w->running.step + 1 >= request->max_steps;
        if (!pg_take_step(w, env, request, code, last, failure)) return 0;
        w->running.reward += env->result.reward;
        w->running.step++;
        if (last) pg_end_episode(w, env);
        if (pg_part_is_due(w) && !pg_send_part(w, request->reports, 0)) return -1;
        if (pg_is_enough(w, request)) {
            w->running.stopped = !last;
            return 1;
        }
        int look = pg_look(w);
        if (look < 0) return -1;
        if (look > 0)
            return pg_failed(failure, PG_CLOSED_ERROR, "episode %llu was cut short, since the run closes",
                             (unsigned long long)w->running.episode);
        if (w->running.rejects >= request->max_rejects)
            return pg_failed(
                failure, PG_SAMPLE_ERROR,
                "episode %llu: %llu steps in a row gave no valid sample (max_rejects=%llu); the last reason: %.500s",
                (unsigned long long)w->running.episode, (unsigned long long)w->running.rejects,
                (unsigned long long)request->max_rejects, env->result.text);
    }
    return 1;
}

/* Check the episodes of a Rollout; return 0 for what is none. */
static inline int pg_are_episodes(pg_cursor list) {
    pg_value all = pg_next(&list);
    for (size_t i = 0; i < all.size; i++) {
        pg_cursor entry = list;
        pg_value parts = pg_next(&entry), index = pg_next(&entry);
        pg_value seed = pg_next(&entry);
        if (parts.kind != 'l' || (parts.size != 2 && parts.size != 3)) return 0;
        if (index.kind != 'i' || index.negative || index.number >> 63 || !pg_is_kind(&seed, 'i')) return 0;
        if (parts.size == 3 && pg_next(&entry).kind != 'm') return 0;
        pg_skip(&list);
    }
    return !list.bad;
}

static inline int pg_read_rollout(pg_worker *w, pg_rollout *request, pg_cursor *episodes) {
    pg_cursor found[9], body = pg_over(w->body.data, w->body.size);
    pg_value numbers[4], flags[3];
    if (!pg_read_map(&body, "episodes max_steps max_rejects limit made keep_rejected goes_on reports nonfinite",
                     "liiii???s", found, 0))
        return 0;
    *episodes = found[0];
    for (size_t i = 0; i < 4; i++) numbers[i] = pg_next(&found[1 + i]);
    for (size_t i = 0; i < 3; i++) flags[i] = pg_next(&found[5 + i]);
    for (size_t i = 0; i < 4; i++)
        if (numbers[i].kind != 'i' || numbers[i].negative) return 0;
    pg_value nonfinite = pg_next(&found[8]);
    request->max_steps = numbers[0].number;
    request->max_rejects = numbers[1].number;
    request->limit = numbers[2].number;
    request->made = numbers[3].number;
    request->keep_rejected = flags[0].number != 0;
    request->goes_on = flags[1].number != 0;
    request->reports = flags[2].number != 0;
    request->reject = pg_is_text(&nonfinite, "reject");
    request->allow = pg_is_text(&nonfinite, "allow");
    if (!request->reject && !request->allow && !pg_is_text(&nonfinite, "error")) return 0;
    return pg_are_episodes(*episodes);
}

static inline int pg_serve_rollout(pg_worker *w) {
    pg_rollout request;
    pg_cursor episodes;
    pg_failure failure;
    char doing[64] = "rollout";
    memset(&failure, 0, sizeof failure);
    failure.doing = doing;
    if (!pg_read_rollout(w, &request, &episodes)) return pg_fault(w, "its Rollout is wrong");
    int goes_on = request.goes_on && w->running.stopped, right = 1;
    w->running.stopped = 0;
    pg_clear_part(w);
    if (w->simulation->sample.count == 0)
        right = pg_failed(&failure, PG_SAMPLE_ERROR, "%s declares no sample, so there is nothing to store",
                          w->simulation->id);
    double *action = (double *)pg_take(pg_numbers_of(w->simulation->action), sizeof *action);
    pg_value all = pg_next(&episodes);
    for (size_t i = 0; right == 1 && i < all.size && !pg_is_enough(w, &request); i++) {
        pg_cursor entry = episodes;
        pg_value parts = pg_next(&entry), index = pg_next(&entry);
        pg_env *env = &w->envs[index.number % w->count];
        (void)parts;
        failure.env = (size_t)(index.number % w->count);
        snprintf(doing, sizeof doing, "rollout of episode %llu", (unsigned long long)index.number);
        if (!(i == 0 && goes_on && w->running.episode == index.number))
            right = pg_begin_episode(w, env, episodes, &failure);
        if (right == 1) right = pg_run_episode(w, env, &request, action, &failure);
        pg_skip(&episodes);
    }
    free(action);
    if (right < 0) return 0;
    if (right) return pg_send_part(w, request.reports, 1);
    return pg_send_part(w, request.reports, 0) && pg_send_failure(w, &failure); /* what came before is not lost */
}

/* --- Call */

static inline int pg_has_attribute(pg_worker *w, const pg_value *name) {
    return w->simulation->time_step > 0 && (pg_is_text(name, "time_step") || pg_is_text(name, "step_seconds"));
}

static inline int pg_serve_call(pg_worker *w) {
    pg_cursor found[5], body = pg_over(w->body.data, w->body.size);
    if (!pg_read_map(&body, "kind name args kwargs rows", "sslmL", found, 0)) return pg_fault(w, "its Call is wrong");
    pg_value kind = pg_next(&found[0]), name = pg_next(&found[1]), args = pg_next(&found[2]), rows = pg_next(&found[4]);
    size_t count = rows.kind == 'l' ? rows.size : w->count;
    unsigned char *seen = (unsigned char *)pg_take(w->count, 1);
    int right = count <= w->count;
    for (size_t i = 0; right && rows.kind == 'l' && i < count; i++) {
        pg_value row = pg_next(&found[4]);
        right = row.kind == 'i' && !row.negative && row.number < w->count && !seen[row.number];
        if (right) seen[row.number] = 1;
    }
    free(seen);
    if (!right || (pg_is_text(&kind, "set") && args.size != count))
        return pg_fault(w, "its Call names wrong environments");
    pg_value asked = args.size > 0 ? pg_next(&found[2]) : args;
    int calls = pg_is_text(&kind, "call"),
        has = calls && pg_is_text(&name, "has_wrapper_attr") && args.size == 1 && asked.kind == 's';
    if (!has && !(calls && pg_has_attribute(w, &name)) && !pg_is_text(&kind, "render") && !pg_is_text(&kind, "scene")) {
        pg_failure failure;
        memset(&failure, 0, sizeof failure);
        failure.doing = "call";
        pg_failed(&failure, PG_NO_ATTRIBUTE, "%s, a simulation in C, has no attribute '%.*s'", w->simulation->id,
                  (int)(name.size < 100 ? name.size : 100), (const char *)name.data);
        return pg_send_failure(w, &failure);
    }
    pg_begin(w);
    pg_put_map(&w->out, 1);
    pg_put_text(&w->out, "results");
    pg_put_list(&w->out, count);
    for (size_t i = 0; i < count; i++) {
        if (has) {
            pg_put_bool(&w->out, pg_has_attribute(w, &asked));
        } else if (calls) {
            pg_put_float(&w->out, w->simulation->time_step);
        } else if (pg_is_text(&kind, "scene")) {
            pg_put_map(&w->out, 1);
            pg_put_text(&w->out, "scene");
            pg_put_nil(&w->out);
        } else {
            pg_put_nil(&w->out); /* no pictures */
        }
    }
    return pg_send(w, PG_CALL_RESULT);
}

/* --- the conversation */

static inline int pg_prove(pg_worker *w, const char *role, const unsigned char nonce[PG_TOKEN],
                           unsigned char proof[PG_TOKEN]) {
    unsigned char text[64];
    size_t size = strlen(role);
    memcpy(text, role, size);
    memset(text + size, 0xFF, 8); /* index -1: a worker that connects has none yet */
    memcpy(text + size + 8, nonce, PG_TOKEN);
    pg_hmac(w->token, w->token_size, text, size + 8 + PG_TOKEN, proof);
    return 1;
}

/* Prove the token, and have the parent prove it. */
static inline int pg_greet(pg_worker *w) {
    unsigned char nonce[PG_TOKEN], proof[PG_TOKEN];
    pg_cursor found[1], body;
    if (!pg_from_system(nonce, sizeof nonce)) return pg_fault(w, "there is no /dev/urandom");
    if (pg_receive(w, PG_BIT(PG_CHALLENGE), PG_BODY_BEFORE_WELCOME) < 0) return 0;
    w->heard = 1;
    body = pg_over(w->body.data, w->body.size);
    if (!pg_read_map(&body, "nonce", "b", found, 0)) return pg_fault(w, "its Challenge is wrong");
    pg_value theirs = pg_next(&found[0]);
    if (theirs.size != PG_TOKEN) return pg_fault(w, "its Challenge is wrong");
    pg_prove(w, "worker", theirs.data, proof);
    pg_begin(w);
    pg_put_map(&w->out, 4);
    pg_put_text(&w->out, "worker");
    pg_put_number(&w->out, 0xFF, 1);
    pg_put_text(&w->out, "pid");
    pg_put_int(&w->out, (int64_t)getpid());
    pg_put_text(&w->out, "nonce");
    pg_put_binary(&w->out, nonce, sizeof nonce);
    pg_put_text(&w->out, "proof");
    pg_put_binary(&w->out, proof, sizeof proof);
    if (!pg_send(w, PG_HELLO)) return 0;
    if (pg_receive(w, PG_BIT(PG_WELCOME), PG_BODY_BEFORE_WELCOME) < 0) return 0;
    body = pg_over(w->body.data, w->body.size);
    if (!pg_read_map(&body, "proof", "b", found, 0)) return pg_fault(w, "its Welcome is wrong");
    theirs = pg_next(&found[0]);
    pg_prove(w, "parent", nonce, proof);
    if (theirs.size != PG_TOKEN || !pg_equal(theirs.data, proof, PG_TOKEN))
        return pg_fault(w, "it does not know the token");
    return 1;
}

/* Write the SHA-256 of this program as hexadecimal digits; nothing where the system does not give it. */
static inline void pg_program(char digits[65]) {
    pg_bytes whole;
    unsigned char digest[32];
    FILE *file = fopen("/proc/self/exe", "rb");
    digits[0] = 0;
    memset(&whole, 0, sizeof whole);
    if (file == NULL) return;
    for (;;) {
        pg_reserve(&whole, 65536);
        size_t got = fread(whole.data + whole.size, 1, 65536, file);
        whole.size += got;
        if (got == 0) break;
    }
    fclose(file);
    pg_sha256(&whole, 1, digest);
    for (size_t i = 0; i < 32; i++) snprintf(digits + 2 * i, 3, "%02x", (unsigned)digest[i]);
    pg_free(&whole);
}

static inline int pg_offer(pg_worker *w) {
    char host[256] = "";
    struct {
        const char *name, *value;
    } said[3];
    if (gethostname(host, sizeof host - 1) != 0 || !pg_is_utf8((const unsigned char *)host, strlen(host))) host[0] = 0;
    said[0].name = "c client";
    said[0].value = PG_CLIENT;
    said[1].name = "machine";
#if defined(__x86_64__)
    said[1].value = "x86_64";
#elif defined(__aarch64__)
    said[1].value = "aarch64";
#else
    said[1].value = "another";
#endif
    said[2].name = "program"; /* two programs may give other numbers */
    said[2].value = w->program;
    pg_begin(w);
    pg_put_map(&w->out, 3);
    pg_put_text(&w->out, "count");
    pg_put_int(&w->out, (int64_t)w->offered);
    pg_put_text(&w->out, "host");
    pg_put_text(&w->out, host);
    pg_put_text(&w->out, "versions");
    pg_put_map(&w->out, 2);
    pg_put_text(&w->out, "packages");
    pg_put_map(&w->out, 3);
    for (size_t i = 0; i < 3; i++) {
        pg_put_text(&w->out, said[i].name);
        pg_put_text(&w->out, said[i].value);
    }
    pg_put_text(&w->out, "codes"); /* by id, which says what it makes */
    pg_put_map(&w->out, 1);
    pg_put_text(&w->out, w->simulation->id);
    pg_put_map(&w->out, 1);
    pg_put_text(&w->out, "packages");
    pg_put_map(&w->out, 1);
    pg_put_text(&w->out, "program");
    pg_put_text(&w->out, w->program);
    return pg_send(w, PG_WORKER_OFFER);
}

/* Read what makes an environment with one set of arguments, into w->settings. */
static inline int pg_read_variant(pg_worker *w, pg_cursor c, size_t variant, pg_failure *failure) {
    const pg_simulation *s = w->simulation;
    for (int depth = 0; depth < 8; depth++) {
        pg_cursor found[4], whole = c;
        if (!pg_read_map(&whole, "make", "s", found, 1)) break;
        pg_value make = pg_next(&found[0]);
        whole = c;
        if (pg_is_text(&make, "sampled actions")) {
            pg_cursor named[1];
            if (!pg_read_map(&whole, "make of sampler seed", "smm*", found, 0)) break;
            c = found[1];
            if (!pg_read_map(&found[2], "sampler", "s", named, 1)) break;
            pg_value sampler = pg_next(&named[0]);
            if (!pg_is_text(&sampler, "uniform"))
                return pg_failed(failure, PG_CONFIG_ERROR,
                                 "a worker in C draws uniform actions, or those of its own draw_action "
                                 "where the run names no sampler; leave --actions out");
            w->uniform[variant] = 1;
            continue;
        }
        if (!pg_is_text(&make, "env"))
            return pg_failed(failure, PG_CONFIG_ERROR, "a worker in C makes no '%.*s'",
                             (int)(make.size < 100 ? make.size : 100), (const char *)make.data);
        if (!pg_read_map(&whole, "make env arguments", "ssm", found, 0)) break;
        pg_value id = pg_next(&found[1]), arguments = pg_next(&found[2]);
        size_t size = strlen(s->id);
        int same = id.size >= size && memcmp(id.data + id.size - size, s->id, size) == 0;
        if (!same || (id.size > size && id.data[id.size - size - 1] != ':'))
            return pg_failed(failure, PG_CONFIG_ERROR, "this worker does not make '%.*s'; it makes %s",
                             (int)(id.size < 100 ? id.size : 100), (const char *)id.data, s->id);
        for (size_t i = 0; i < s->setting_count; i++)
            w->settings[variant * s->setting_count + i] = s->settings[i].value;
        for (size_t entry = 0; entry < arguments.size; entry++) {
            pg_value name = pg_next(&found[2]);
            double number = 0;
            size_t i = 0;
            while (i < s->setting_count && !pg_is_text(&name, s->settings[i].name)) i++;
            if (i == s->setting_count)
                return pg_failed(failure, PG_CONFIG_ERROR, "%s has no argument '%.*s'", s->id,
                                 (int)(name.kind == 's' && name.size < 100 ? name.size : 0), (const char *)name.data);
            const char *wrong = pg_read_numbers(found[2], &number, 1);
            if (wrong != NULL || !(number >= s->settings[i].low && number <= s->settings[i].high))
                return pg_failed(failure, PG_CONFIG_ERROR, "the argument '%s' of %s must be a number from %g to %g",
                                 s->settings[i].name, s->id, s->settings[i].low, s->settings[i].high);
            w->settings[variant * s->setting_count + i] = number;
            pg_skip(&found[2]);
        }
        return 1;
    }
    return pg_failed(failure, PG_CONFIG_ERROR,
                     "what the run wants made cannot be read; it has another version of physgym");
}

static inline void pg_allocate(pg_worker *w, size_t count, size_t variants) {
    const pg_simulation *s = w->simulation;
    w->count = count;
    w->variants = variants;
    w->settings = (double *)pg_take(variants * s->setting_count, sizeof *w->settings);
    w->uniform = (unsigned char *)pg_take(variants, 1);
    w->envs = (pg_env *)pg_take(count, sizeof *w->envs);
    for (size_t i = 0; i < count; i++) {
        pg_env *env = &w->envs[i];
        env->instances = (void **)pg_take(variants, sizeof *env->instances);
        env->made = (unsigned char *)pg_take(variants, 1);
        env->observation = env->result.observation = (double *)pg_take(pg_numbers_of(s->observation), sizeof(double));
        env->sample = env->result.sample = (double *)pg_take(pg_numbers_of(s->sample), sizeof(double));
        env->parameters = (double *)pg_take(pg_numbers_of(s->parameters), sizeof(double));
    }
}

/* Make what an Assignment orders; 0 where it is wrong or cannot be made, and `failure` says why. */
static inline int pg_take_assignment(pg_worker *w, pg_failure *failure) {
    pg_cursor found[2], started[2], body = pg_over(w->body.data, w->body.size);
    if (!pg_read_map(&body, "start environments", "ml", found, 0) ||
        !pg_read_map(&found[0], "autoreset_mode seeds", "sL", started, 1))
        return pg_failed(failure, PG_CONFIG_ERROR,
                         "what the run says cannot be read; it has another version of physgym");
    pg_value mode = pg_next(&started[0]), seeds = pg_next(&started[1]), list = pg_next(&found[1]);
    w->mode = pg_is_text(&mode, "SAME_STEP")  ? PG_SAME_STEP
              : pg_is_text(&mode, "DISABLED") ? PG_DISABLED
                                              : PG_NEXT_STEP;
    if (w->mode == PG_NEXT_STEP && !pg_is_text(&mode, "NEXT_STEP"))
        return pg_failed(failure, PG_CONFIG_ERROR, "the autoreset mode of the run is unknown here");
    if (list.size < 1 || list.size > w->offered)
        return pg_failed(failure, PG_CONFIG_ERROR, "the run wants %lu environments, and --envs says %lu",
                         (unsigned long)list.size, (unsigned long)w->offered);
    if (seeds.kind == 'l' && seeds.size != list.size)
        return pg_failed(failure, PG_CONFIG_ERROR, "the seeds of the run are wrong");
    pg_cursor first = found[1], maps[2], several = first;
    pg_value make;
    size_t variants = 1;
    if (!pg_read_map(&several, "make", "s", maps, 1))
        return pg_failed(failure, PG_CONFIG_ERROR, "what the run wants made cannot be read");
    make = pg_next(&maps[0]);
    several = first;
    int by_episode = pg_is_text(&make, "by episode");
    if (by_episode) {
        if (!pg_read_map(&several, "make of", "sl", maps, 0))
            return pg_failed(failure, PG_CONFIG_ERROR, "what the run wants made cannot be read");
        first = maps[1];
        variants = pg_next(&first).size;
        if (variants < 1 || variants > PG_VARIANTS)
            return pg_failed(failure, PG_CONFIG_ERROR, "a worker in C takes 1 to %d sets of arguments", PG_VARIANTS);
    }
    for (size_t i = 0; i < list.size; i++) { /* all environments of a worker are alike, here */
        pg_cursor other = found[1];
        pg_skip(&other);
        size_t size = (size_t)(other.at - found[1].at);
        if (i > 0 && (size != (size_t)(several.end - several.at) || memcmp(several.at, found[1].at, size) != 0))
            return pg_failed(failure, PG_CONFIG_ERROR, "a worker in C has environments with the same arguments");
        several = pg_over(found[1].at, size);
        found[1] = other;
    }
    pg_allocate(w, list.size, variants);
    for (size_t i = 0; i < variants; i++) {
        if (!pg_read_variant(w, first, i, failure)) return 0;
        pg_skip(&first);
    }
    for (size_t i = 0; i < w->count; i++) {
        failure->env = i;
        failure->any = 0;
        if (!pg_make(w, &w->envs[i], i % variants, failure)) return 0;
        w->envs[i].ended = 1; /* until it is reset */
        w->envs[i].cut = seeds.kind == 'l';
        if (seeds.kind == 'l') {
            pg_value seed = pg_next(&started[1]);
            w->envs[i].has_seed = pg_read_seed(&seed, &w->envs[i].seed) == 1;
        }
    }
    return 1;
}

static inline int pg_send_ready(pg_worker *w) {
    const pg_simulation *s = w->simulation;
    pg_bytes *b = &w->out;
    pg_begin(w);
    pg_put_map(b, 2);
    pg_put_text(b, "count");
    pg_put_int(b, (int64_t)w->count);
    pg_put_text(b, "description");
    pg_put_map(b, 11);
    pg_put_text(b, "observation_space");
    pg_put_space(b, s->observation);
    pg_put_text(b, "observation_spaces");
    pg_put_list(b, 0);
    pg_put_text(b, "action_space");
    pg_put_space(b, s->action);
    pg_put_text(b, "sample_space");
    pg_put_space(b, s->sample);
    pg_put_text(b, "sample_fields");
    pg_put_described(b, s->sample, 1);
    pg_put_text(b, "parameter_space");
    pg_put_space(b, s->parameters);
    pg_put_text(b, "parameter_fields");
    pg_put_described(b, s->parameters, 0);
    pg_put_text(b, "metadata");
    pg_put_map(b, 0);
    pg_put_text(b, "render_mode");
    pg_put_nil(b);
    pg_put_text(b, "max_episode_steps");
    if (s->max_episode_steps > 0)
        pg_put_int(b, s->max_episode_steps);
    else
        pg_put_nil(b);
    pg_put_text(b, "code");
    pg_put_map(b, 3);
    pg_put_text(b, "classes");
    pg_put_list(b, 0);
    pg_put_text(b, "files");
    pg_put_list(b, 0);
    pg_put_text(b, "program");
    pg_put_list(b, w->program[0] ? 2 : 1);
    pg_put_text(b, s->id);
    if (w->program[0]) pg_put_text(b, w->program);
    return pg_send(w, PG_READY);
}

/* Answer a request; return whether the connection continues. */
static inline int pg_answer(pg_worker *w, int type) {
    pg_failure failure;
    if (type != PG_ROLLOUT) w->running.stopped = 0;
    switch (type) {
    case PG_RESET: return pg_serve_reset(w);
    case PG_STEP: return pg_serve_step(w);
    case PG_ROLLOUT: return pg_serve_rollout(w);
    case PG_CALL: return pg_serve_call(w);
    default:
        memset(&failure, 0, sizeof failure);
        failure.any = 1;
        failure.doing = "attach";
        pg_failed(&failure, PG_ENV_ERROR, "a worker that has connected shares no memory");
        return pg_send_failure(w, &failure);
    }
}

/* Wait until the parent hangs up. */
static inline void pg_await_end(pg_link *link) {
    unsigned char some[256];
    link->deadline = pg_now() + PG_FAREWELL;
    while (pg_read(link, some, sizeof some, 1) > 0) continue;
}

/* Serve requests until Close: PG_DONE; PG_LOST where the connection ends before, or the run has more for a new
 * worker. */
static inline int pg_serve(pg_worker *w) {
    const uint32_t legal = PG_BIT(PG_ATTACH) | PG_BIT(PG_RESET) | PG_BIT(PG_STEP) | PG_BIT(PG_ROLLOUT) |
                           PG_BIT(PG_CALL) | PG_BIT(PG_CLOSE) | PG_BIT(PG_WATCH_SCENES) | PG_BIT(PG_GIVE_INPUTS);
    w->ready = 1;
    for (;;) {
        int type = pg_receive(w, legal, PG_BODY);
        if (type < 0) return w->link.trouble != NULL ? PG_REFUSED : PG_LOST;
        if (type == PG_CLOSE) {
            pg_cursor found[1], body = pg_over(w->body.data, w->body.size);
            int again = 0;
            if (pg_read_map(&body, "again", "?", found, 1)) again = pg_next(&found[0]).number != 0;
            pg_free_envs(w);
            pg_begin(w);
            pg_put_map(&w->out, 0);
            if (!pg_send(w, PG_CLOSED)) return PG_LOST;
            pg_await_end(&w->link);
            return again ? PG_LOST : PG_DONE;
        }
        if (type != PG_WATCH_SCENES && type != PG_GIVE_INPUTS && !pg_answer(w, type))
            return w->link.trouble != NULL ? PG_REFUSED : PG_LOST;
    }
}

/* Offer environments to a parent that was greeted, and serve it; return how that ended. */
static inline int pg_work(pg_worker *w) {
    pg_failure failure;
    pg_cursor found[1], body;
    int type;
    memset(&failure, 0, sizeof failure);
    failure.any = 1;
    failure.doing = "construction";
    if (!pg_offer(w)) return PG_LOST;
    w->link.deadline = 0; /* there may be work in some hours */
    type = pg_receive(w, PG_BIT(PG_ASSIGNMENT) | PG_BIT(PG_REFUSAL), PG_BODY);
    if (type < 0) return w->link.trouble != NULL ? PG_REFUSED : PG_LOST;
    if (type == PG_REFUSAL) {
        body = pg_over(w->body.data, w->body.size);
        if (!pg_read_map(&body, "reason", "s", found, 0)) return pg_fault(w, "its Refusal is wrong"), PG_REFUSED;
        pg_value reason = pg_next(&found[0]);
        if (reason.size == 0) return PG_DONE;
        fputs("physgym: ", stderr);
        for (size_t i = 0; i < reason.size && i < 2000; i++)
            fputc(reason.data[i] < 32 || reason.data[i] == 127 ? '?' : reason.data[i], stderr);
        fputc('\n', stderr);
        return PG_REFUSED;
    }
    if (!pg_take_assignment(w, &failure)) {
        pg_tell("%s", failure.text);
        pg_send_failure(w, &failure);
        return PG_REFUSED;
    }
    if (!pg_send_ready(w)) return PG_LOST;
    return pg_serve(w);
}

/* Talk to a parent over a new connection; return how it ended. */
static inline int pg_converse(pg_worker *w) {
    w->heard = w->ready = 0;
    w->number = w->asked = 0;
    w->samples = 0;
    w->link.deadline = pg_now() + PG_GREETING;
    if (!pg_greet(w)) return w->link.trouble != NULL ? PG_REFUSED : PG_LOST;
    return pg_work(w);
}

/* --- the command line */

typedef struct {
    char host[256], port[8];
    const char *token_file, *fingerprint, *authorities, *certificate, *key, *states;
    size_t envs;
    double patience;
    int tls, stay;
} pg_options;

/* Keep a connection through a short loss of its link, and end it some time after a long one. */
static inline void pg_set_lasting(int file) {
    const int on = 1;
    setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(file, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#if defined(TCP_KEEPIDLE) && defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
    const int idle = 20, between = 10, count = 4;
    setsockopt(file, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(file, IPPROTO_TCP, TCP_KEEPINTVL, &between, sizeof between);
    setsockopt(file, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
#endif
#ifdef TCP_USER_TIMEOUT
    const unsigned lost = 60000;
    setsockopt(file, IPPROTO_TCP, TCP_USER_TIMEOUT, &lost, sizeof lost);
#endif
}

static inline int pg_is_loopback(const struct sockaddr *address) {
    static const unsigned char mapped[13] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127};
    if (address->sa_family == AF_INET) {
        struct sockaddr_in four;
        memcpy(&four, address, sizeof four);
        return ntohl(four.sin_addr.s_addr) >> 24 == 127;
    }
    if (address->sa_family == AF_INET6) {
        struct sockaddr_in6 six;
        memcpy(&six, address, sizeof six);
        return memcmp(&six.sin6_addr, &in6addr_loopback, sizeof six.sin6_addr) == 0 ||
               memcmp(&six.sin6_addr, mapped, sizeof mapped) == 0;
    }
    return 0;
}

/* Connect by TCP: PG_DONE, PG_LOST where nobody answers, or PG_REFUSED. */
static inline int pg_dial(pg_link *link, const pg_options *options, const char **why) {
    struct addrinfo hints, *all = NULL;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    int failed = getaddrinfo(options->host, options->port, &hints, &all);
    if (failed) {
        *why = gai_strerror(failed);
        return PG_LOST;
    }
    int status = PG_LOST;
    for (struct addrinfo *one = all; one != NULL && link->file < 0; one = one->ai_next) {
        if (!options->tls && !pg_is_loopback(one->ai_addr)) {
            pg_tell("%s is no address of this machine, and the rest would be sent in clear; give --fingerprint or "
                    "--authorities",
                    options->host);
            status = PG_REFUSED;
            break;
        }
        int file = socket(one->ai_family, SOCK_STREAM, 0), trouble = 0;
        if (file < 0) continue;
        socklen_t size = sizeof trouble;
        link->file = file;
        fcntl(file, F_SETFD, FD_CLOEXEC);
        fcntl(file, F_SETFL, O_NONBLOCK);
        if (connect(file, one->ai_addr, one->ai_addrlen) != 0) {
            if (errno != EINPROGRESS)
                trouble = errno;
            else if (!pg_wait(link, POLLOUT))
                trouble = ETIMEDOUT;
            else if (getsockopt(file, SOL_SOCKET, SO_ERROR, &trouble, &size) != 0)
                trouble = errno;
        }
        if (trouble) {
            *why = strerror(trouble);
            close(file);
            link->file = -1;
            continue;
        }
        pg_set_lasting(file);
        status = PG_DONE;
    }
    freeaddrinfo(all);
    return status;
}

#ifdef PHYSGYM_TLS
static inline int pg_tls_error(const char *what) {
    unsigned long code = ERR_get_error();
    pg_tell("%s: %s", what, code ? ERR_error_string(code, NULL) : "OpenSSL gives no reason");
    return PG_REFUSED;
}

/* Begin TLS over a connection, with a parent whose certificate is the pinned one, or signed by an authority. */
static inline int pg_begin_tls(pg_link *link, const pg_options *options) {
    int got;
    ERR_clear_error();
    link->context = SSL_CTX_new(TLS_client_method());
    if (link->context == NULL) return pg_tls_error("TLS");
    SSL_CTX_set_min_proto_version(link->context, TLS1_2_VERSION);
    SSL_CTX_set_mode(link->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (options->fingerprint == NULL) {
        int loaded = options->authorities ? SSL_CTX_load_verify_locations(link->context, options->authorities, NULL)
                                          : SSL_CTX_set_default_verify_paths(link->context);
        if (loaded != 1)
            return pg_tls_error(options->authorities ? options->authorities : "the authorities of this system");
        SSL_CTX_set_verify(link->context, SSL_VERIFY_PEER, NULL);
    } else {
        SSL_CTX_set_verify(link->context, SSL_VERIFY_NONE, NULL); /* the fingerprint decides alone */
    }
    if (options->certificate != NULL &&
        (SSL_CTX_use_certificate_chain_file(link->context, options->certificate) != 1 ||
         SSL_CTX_use_PrivateKey_file(link->context, options->key, SSL_FILETYPE_PEM) != 1))
        return pg_tls_error(options->certificate);
    link->tls = SSL_new(link->context);
    if (link->tls == NULL || SSL_set_fd(link->tls, link->file) != 1) return pg_tls_error("TLS");
    X509_VERIFY_PARAM *checks = SSL_get0_param(link->tls);
    if (X509_VERIFY_PARAM_set1_ip_asc(checks, options->host) != 1) { /* else it is an address */
        ERR_clear_error();
        SSL_set_tlsext_host_name(link->tls, options->host);
        if (SSL_set1_host(link->tls, options->host) != 1) return pg_tls_error("TLS");
    }
    while ((got = SSL_connect(link->tls)) != 1) {
        int reason = SSL_get_error(link->tls, got);
        if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE) {
            if (pg_wait(link, reason == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT)) continue;
            pg_tell("nobody answers by TLS; a run that was started with --plain does not speak it");
            return PG_REFUSED;
        }
        if (reason == SSL_ERROR_SYSCALL || reason == SSL_ERROR_ZERO_RETURN) return PG_LOST;
        long verdict = SSL_get_verify_result(link->tls);
        if (options->fingerprint == NULL && verdict != X509_V_OK) {
            pg_tell("the certificate of the run is not accepted: %s; see whether the clocks of both machines are right",
                    X509_verify_cert_error_string(verdict));
            return PG_REFUSED;
        }
        return pg_tls_error("TLS");
    }
    if (options->fingerprint != NULL) {
        unsigned char digest[EVP_MAX_MD_SIZE];
        char shown[2 * EVP_MAX_MD_SIZE + 1];
        unsigned size = 0;
        X509 *certificate = SSL_get_peer_certificate(link->tls);
        int right = certificate != NULL && X509_digest(certificate, EVP_sha256(), digest, &size) == 1 && size == 32;
        X509_free(certificate);
        for (unsigned i = 0; i < size; i++) snprintf(shown + 2 * i, 3, "%02x", (unsigned)digest[i]);
        shown[2 * size] = 0;
        if (!right || !pg_equal((const unsigned char *)shown, (const unsigned char *)options->fingerprint, 64)) {
            pg_tell("the certificate of the run has the fingerprint %s, and --fingerprint says %s", shown,
                    options->fingerprint);
            return PG_REFUSED;
        }
    }
    return PG_DONE;
}
#endif

/* Connect again until a run is over: the exit status. */
static inline int pg_run(pg_worker *w, const pg_options *options) {
    double deadline = pg_now() + options->patience, pause = 0.2;
    const char *why = "";
    int fruitless = 0;
    pg_program(w->program);
    for (;;) {
        double begun = pg_now();
        w->link.deadline = begun + PG_GREETING;
        w->link.trouble = NULL;
        int status = pg_dial(&w->link, options, &why);
#ifdef PHYSGYM_TLS
        if (status == PG_DONE && options->tls) status = pg_begin_tls(&w->link, options);
#endif
        if (status == PG_DONE) {
            status = pg_converse(w);
            if (status == PG_REFUSED && w->link.trouble != NULL)
                pg_tell("%s:%s: %s", options->host, options->port, w->link.trouble);
            if (status == PG_LOST)
                why = w->ready   ? "the connection was lost"
                      : w->heard ? "it hangs up: it does not know this token, or is crowded"
                      : options->tls ? "it hangs up without a word: perhaps it is crowded"
                                     : "it hangs up without a word: perhaps it speaks TLS (--fingerprint), or is crowded";
            if (w->ready) { /* it has worked */
                deadline = pg_now() + options->patience;
                pause = 0.2;
                fruitless = pg_now() - begun > 5 ? 0 : fruitless + 1;
            }
        }
        pg_hang_up(&w->link);
        pg_free_envs(w);
        if (status == PG_REFUSED) return PG_USAGE;
        if (status == PG_DONE && !options->stay) return PG_DONE;
        if (status == PG_DONE) {
            deadline = pg_now() + options->patience;
            fruitless = 0;
        } else if (!options->stay && (fruitless > 100 || pg_now() + pause > deadline)) {
            pg_tell("no run answers at %s:%s within %g s: %s", options->host, options->port, options->patience, why);
            return PG_LOST;
        }
        struct timespec wait;
        wait.tv_sec = (time_t)pause;
        wait.tv_nsec = (long)((pause - (double)wait.tv_sec) * 1e9);
        nanosleep(&wait, NULL);
        pause = fmin(2 * pause, 5.0);
    }
}

/* Read a whole file as text; NULL where it cannot be read, or is larger than `most`. */
static inline char *pg_read_file(const char *name, size_t most) {
    FILE *file = fopen(name, "rb");
    pg_bytes whole;
    memset(&whole, 0, sizeof whole);
    if (file == NULL) return NULL;
    while (whole.size <= most) {
        pg_reserve(&whole, 4097);
        size_t got = fread(whole.data + whole.size, 1, 4096, file);
        whole.size += got;
        if (got == 0) break;
    }
    int failed = ferror(file) || whole.size > most || (whole.size > 0 && memchr(whole.data, 0, whole.size) != NULL);
    fclose(file);
    pg_reserve(&whole, 1);
    whole.data[whole.size] = 0;
    if (failed) pg_free(&whole);
    return (char *)whole.data;
}

/* Read the secret; return what is wrong, or NULL. */
static inline const char *pg_read_token(pg_worker *w, const char *name) {
    struct stat state;
    if (stat(name, &state) != 0) return "the token file cannot be read; copy it from the machine of the run";
    if (!S_ISREG(state.st_mode)) return "the token file is no file";
    if (state.st_mode & (S_IRWXG | S_IRWXO)) return "others can read the token file; keep it to yourself: chmod 600";
    char *text = pg_read_file(name, 1024), *at = text;
    if (text == NULL) return "the token file cannot be read";
    while (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t') at++;
    size_t digits = strspn(at, "0123456789abcdefABCDEF");
    int whole = at[digits + strspn(at + digits, " \n\r\t")] == 0 && digits % 2 == 0;
    for (w->token_size = 0; whole && w->token_size < digits / 2 && w->token_size < sizeof w->token; w->token_size++) {
        char two[3];
        memcpy(two, at + 2 * w->token_size, 2);
        two[2] = 0;
        w->token[w->token_size] = (unsigned char)strtoul(two, NULL, 16);
    }
    free(text);
    return w->token_size >= PG_TOKEN
               ? NULL
               : "the token file holds no token of 32 bytes; copy the file that --listen has made";
}

/* Read so many numbers; return whether they are there. */
static inline int pg_scan(char **at, double *to, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char *end;
        to[i] = strtod(*at, &end);
        if (end == *at) return 0;
        *at = end;
    }
    return 1;
}

static inline void pg_print_state(const pg_simulation *s, void *env, double *state) {
    s->get_state(env, state);
    for (size_t i = 0; i < s->state_size; i++) printf(i ? " %.17g" : "%.17g", state[i]);
    putchar('\n');
}

/* Print the state at the beginning of an episode and after each step; a file gives words, each followed by its numbers:
 * `parameters`, then maybe `state` (in place of the one that the reset makes), then `action` for each step. */
static inline int pg_print_states(const pg_simulation *s, const char *name) {
    size_t parameters = pg_numbers_of(s->parameters), actions = pg_numbers_of(s->action);
    char *text = pg_read_file(name, (size_t)1 << 28), *at = text;
    double *given = (double *)pg_take(parameters, sizeof *given), *action = (double *)pg_take(actions, sizeof *action);
    double *state = (double *)pg_take(s->state_size, sizeof *state),
           *settings = (double *)pg_take(s->setting_count, sizeof *settings);
    pg_random random = pg_seeded(0);
    pg_result result;
    char why[PG_TEXT] = "";
    void *env = NULL;
    int begun = 0, steps = 0;
    memset(&result, 0, sizeof result);
    result.observation = (double *)pg_take(pg_numbers_of(s->observation), sizeof(double));
    result.sample = (double *)pg_take(pg_numbers_of(s->sample), sizeof(double));
    for (size_t i = 0; i < s->setting_count; i++) settings[i] = s->settings[i].value;
    if (s->state_size == 0 || s->get_state == NULL)
        snprintf(why, PG_TEXT, "%s declares no state", s->id);
    else if (text == NULL)
        snprintf(why, PG_TEXT, "%.900s cannot be read, or is no text", name);
    else if (s->make != NULL && (env = s->make(settings, why)) == NULL && why[0] == 0)
        snprintf(why, PG_TEXT, "it cannot be made");
    while (why[0] == 0) {
        at += strspn(at, " \t\r\n");
        size_t size = strcspn(at, " \t\r\n");
        if (size == 0) break;
        char *word = at;
        at += size;
        int known = 1;
        if (size == 10 && memcmp(word, "parameters", 10) == 0 && !begun) {
            known = pg_scan(&at, given, parameters);
            const pg_field *outside = known ? pg_outside(s->parameters, given, 1) : NULL;
            if (outside != NULL)
                snprintf(why, PG_TEXT, "parameter '%.200s' is not within its bounds", outside->name);
            else if (known && s->reset(env, given, &random, &result) != PG_OK)
                snprintf(why, PG_TEXT, "reset: %.900s", result.text);
            begun = 1;
        } else if (size == 5 && memcmp(word, "state", 5) == 0 && begun && !steps && s->set_state != NULL) {
            known = pg_scan(&at, state, s->state_size);
            if (known) s->set_state(env, state);
        } else if (size == 6 && memcmp(word, "action", 6) == 0 && begun) {
            known = pg_scan(&at, action, actions) && pg_outside(s->action, action, 0) == NULL;
            if (known && !steps++) pg_print_state(s, env, state);
            result.text[0] = 0;
            int code = known ? s->step(env, action, &random, &result) : PG_OK;
            const char *how = code == PG_REJECTED ? "was rejected" : "failed";
            if (code != PG_OK) /* what the environment holds then is no state after this action */
                snprintf(why, PG_TEXT, "step %d %s: %.900s", steps, how, result.text);
            else if (known)
                pg_print_state(s, env, state);
        } else {
            known = 0;
        }
        if (!known && why[0] == 0)
            snprintf(
                why, PG_TEXT,
                "%.200s, at byte %lu: wanted are parameters and %lu numbers, then state and %lu, then action and %lu "
                "for each step",
                name, (unsigned long)(word - text), (unsigned long)parameters, (unsigned long)s->state_size,
                (unsigned long)actions);
    }
    if (why[0] == 0 && !steps) snprintf(why, PG_TEXT, "%.200s names no action", name);
    if (why[0]) pg_tell("%s", why);
    if (s->close != NULL && (env != NULL || (s->make == NULL && text != NULL))) s->close(env);
    free(text);
    free(given);
    free(action);
    free(state);
    free(settings);
    free(result.observation);
    free(result.sample);
    int lost = fflush(stdout) != 0 || ferror(stdout);
    if (lost) pg_tell("the states cannot be written: %s", strerror(errno));
    return why[0] ? PG_USAGE : lost ? 1 : PG_DONE;
}

/* Read a fingerprint: 64 hexadecimal digits in small letters, without colons. */
static inline int pg_read_fingerprint(const char *text, char digits[65]) {
    size_t size = 0;
    for (; *text != 0; text++) {
        char digit = *text >= 'A' && *text <= 'F' ? (char)(*text + ('a' - 'A')) : *text;
        if (digit == ':') continue;
        if (size == 64 || !((digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f'))) return 0;
        digits[size++] = digit;
    }
    digits[size] = 0;
    return size == 64;
}

static inline int pg_read_address(const char *text, pg_options *options) {
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text) return 0;
    size_t size = (size_t)(colon - text), digits = strspn(colon + 1, "0123456789");
    if (text[0] == '[' && size > 2 && colon[-1] == ']') {
        text++;
        size -= 2;
    }
    if (size >= sizeof options->host || digits == 0 || digits > 5 || colon[1 + digits] != 0 || atol(colon + 1) > 65535)
        return 0;
    memcpy(options->host, text, size);
    options->host[size] = 0;
    memcpy(options->port, colon + 1, digits + 1);
    return 1;
}

static inline void pg_print_help(const char *program, const char *id) {
    printf("usage: %s HOST:PORT --token-file FILE [options]\n"
           "       %s --states FILE\n\n"
           "Run %s for a run of physgym, which listens at HOST:PORT.\n\n"
           "  --token-file FILE    its secret, a file that it has made; copy it from there\n"
           "  --envs K             environments that are hosted, at most (1)\n"
           "  --plain              no TLS, on a loopback address alone; as without the next two\n"
           "  --fingerprint HEX    of its certificate, as it has printed it\n"
           "  --authorities FILE   certificates that may have signed its one (PEM); `system` for those of the system\n"
           "  --certificate FILE   certificate of this worker (PEM), with --key FILE\n"
           "  --patience SECONDS   to try to connect before giving up (60)\n"
           "  --stay               connect again when the run is over, for the next one\n"
           "  --states FILE        print the states for parameters, state and actions in a file\n",
           program, program, id);
}

/* Return what is wrong with the declaration of a simulation, or NULL. */
static inline const char *pg_wrong_simulation(const pg_simulation *s) {
    const char *wrong = NULL;
    if (s->id == NULL || !s->id[0] || s->reset == NULL || s->step == NULL) return "it needs an id, reset and step";
    if (s->observation.count == 0 || s->action.count == 0) return "it needs an observation and an action";
    for (size_t i = 0; i < s->setting_count; i++)
        if (s->settings == NULL ||
            !(s->settings[i].low <= s->settings[i].value && s->settings[i].value <= s->settings[i].high))
            return "a setting is not within its bounds";
    if (wrong == NULL) wrong = pg_wrong_fields(s->observation, 0);
    if (wrong == NULL) wrong = pg_wrong_fields(s->action, 0);
    if (wrong == NULL) wrong = pg_wrong_fields(s->sample, 1);
    if (wrong == NULL) wrong = pg_wrong_fields(s->parameters, 1);
    return wrong;
}

static inline pg_simulation pg_declared(const char *id) {
    pg_simulation simulation;
    memset(&simulation, 0, sizeof simulation);
    simulation.id = id;
    return simulation;
}

/* Read the options; return what is wrong, or NULL. */
static inline const char *pg_read_options(int argc, char **argv, pg_options *options, char fingerprint[65]) {
    const char *address = NULL;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (name[0] != '-') {
            if (address != NULL) return "two addresses were given";
            address = name;
            continue;
        }
        if (strcmp(name, "--plain") == 0) continue;
        if (strcmp(name, "--stay") == 0) {
            options->stay = 1;
            continue;
        }
        if (value == NULL) return "an option is unknown, or lacks its value";
        i++;
        if (strcmp(name, "--token-file") == 0) {
            options->token_file = value;
        } else if (strcmp(name, "--envs") == 0) {
            char *end;
            long count = strtol(value, &end, 10);
            if (*end != 0 || count < 1 || count > PG_ENVS) return "--envs must be an integer from 1 to 4096";
            options->envs = (size_t)count;
        } else if (strcmp(name, "--fingerprint") == 0) {
            if (!pg_read_fingerprint(value, fingerprint)) return "--fingerprint must be 64 hexadecimal digits";
            options->fingerprint = fingerprint;
        } else if (strcmp(name, "--authorities") == 0) {
            options->authorities = value;
        } else if (strcmp(name, "--certificate") == 0) {
            options->certificate = value;
        } else if (strcmp(name, "--key") == 0) {
            options->key = value;
        } else if (strcmp(name, "--states") == 0) {
            options->states = value;
        } else if (strcmp(name, "--patience") == 0) {
            char *end;
            options->patience = strtod(value, &end);
            if (*end != 0 || !(options->patience >= 0 && options->patience < 1e9))
                return "--patience must be a number of seconds";
        } else {
            return "an option is unknown";
        }
    }
    if (options->states != NULL) return NULL;
    options->tls = options->fingerprint != NULL || options->authorities != NULL;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--plain") == 0 && options->tls)
            return "--plain does without TLS, and so without certificates";
    if (address == NULL || !pg_read_address(address, options)) return "write HOST:PORT, as the run has printed it";
    if (options->token_file == NULL) return "--token-file FILE is missing, the secret of the run";
    if ((options->certificate == NULL) != (options->key == NULL)) return "--certificate and --key go together";
    if (options->certificate != NULL && !options->tls) return "--certificate goes with --fingerprint or --authorities";
    if (options->authorities != NULL && strcmp(options->authorities, "system") == 0) options->authorities = NULL;
#ifndef PHYSGYM_TLS
    if (options->tls) return "this program was built without TLS; define PHYSGYM_TLS and link with -lssl -lcrypto";
#endif
    return NULL;
}

static inline int pg_main(int argc, char **argv, const pg_simulation *simulation) {
    pg_options options;
    pg_worker w;
    char fingerprint[65];
    memset(&options, 0, sizeof options);
    memset(&w, 0, sizeof w);
    options.envs = 1;
    options.patience = 60;
    const char *wrong = pg_wrong_simulation(simulation);
    if (wrong != NULL) {
        pg_tell("the declaration of %s is wrong: %s", simulation->id ? simulation->id : "the simulation", wrong);
        return PG_USAGE;
    }
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) {
            pg_print_help(argv[0], simulation->id);
            return PG_DONE;
        }
    wrong = pg_read_options(argc, argv, &options, fingerprint);
    if (wrong == NULL && options.states != NULL) return pg_print_states(simulation, options.states);
    if (wrong == NULL) wrong = pg_read_token(&w, options.token_file);
    if (wrong != NULL) {
        pg_tell("%s (see --help)", wrong);
        return PG_USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    pg_set_up(&w, simulation, options.envs);
    int status = pg_run(&w, &options);
    pg_free_worker(&w);
    return status;
}

#endif
