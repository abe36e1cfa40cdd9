/* Feed a worker mutated conversations: fuzz FILE COUNT SEED, where FILE has the frames of a parent after Welcome.
 *
 * Built by the sanitizers, with SIMULATION as the file of a simulation. */
#include "../../clients/c/physgym.h"

#include <pthread.h>

static int fuzz(int argc, char **argv, const pg_simulation *simulation);
#define pg_main fuzz
#include SIMULATION
#undef pg_main

typedef struct {
    int file;
    const pg_bytes *bytes;
} peer;

/* Say everything, then listen until the worker hangs up, or waits for more. */
static void *talk(void *given) {
    const peer *parent = (const peer *)given;
    unsigned char some[65536];
    size_t said = 0;
    while (said < parent->bytes->size) {
        ssize_t sent =
            send(parent->file, parent->bytes->data + said, parent->bytes->size - said, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0)
            said += (size_t)sent;
        else if (errno != EAGAIN)
            break;
        while (recv(parent->file, some, sizeof some, MSG_DONTWAIT) > 0) continue;
    }
    struct pollfd answer = {parent->file, POLLIN, 0};
    while (poll(&answer, 1, 50) > 0) {
        ssize_t got = recv(parent->file, some, sizeof some, 0);
        if (got <= 0 || (got >= 17 && some[got - 17] == 'P' && some[got - 14] == PG_CLOSED)) break;
    }
    shutdown(parent->file, SHUT_WR);
    while (recv(parent->file, some, sizeof some, 0) > 0) continue;
    close(parent->file);
    return NULL;
}

static size_t below(pg_random *random, size_t count) { return (size_t)pg_integer(random, 0, (int64_t)count - 1); }

/* Change some bytes, cut some out, put some in, or repeat some. */
static void mutate(pg_bytes *bytes, pg_random *random) {
    static const unsigned char odd[] = {0x00, 0x01, 0x7F, 0x80, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xC7, 0xC9,
                                        0xCB, 0xCF, 0xD3, 0xD4, 0xD8, 0xD9, 0xDB, 0xDC, 0xDD, 0xDF, 0xE0, 0xFF};
    for (size_t turns = 1 + below(random, 4); turns > 0 && bytes->size > 1; turns--) {
        size_t at = below(random, bytes->size), size = 1 + below(random, 12);
        if (size > bytes->size - at) size = bytes->size - at;
        switch (below(random, 6)) {
        case 0: bytes->data[at] = (unsigned char)below(random, 256); break;
        case 1: bytes->data[at] = (unsigned char)(bytes->data[at] ^ (1u << below(random, 8))); break;
        case 2:
            for (size_t i = 0; i < size; i++) bytes->data[at + i] = odd[below(random, sizeof odd)];
            break;
        case 3:
            memmove(bytes->data + at, bytes->data + at + size, bytes->size - at - size);
            bytes->size -= size;
            break;
        case 4: {
            pg_bytes copy;
            memset(&copy, 0, sizeof copy);
            pg_put(&copy, bytes->data + at, bytes->size - at);
            pg_put(bytes, copy.data, size); /* the end moves on */
            memmove(bytes->data + at + size, copy.data, copy.size);
            pg_free(&copy);
            break;
        }
        default: bytes->size = at + 1; break;
        }
    }
}

/* Mutate the body of one frame, and have its header say its length: what a careless parent would send. */
static void mutate_body(pg_bytes *bytes, pg_random *random) {
    size_t at = 0, count = 0, which, length;
    for (; at + 16 <= bytes->size; count++) at += 16 + (size_t)pg_number_of(bytes->data + at + 8, 8);
    which = below(random, count);
    for (at = 0; which > 0; which--) at += 16 + (size_t)pg_number_of(bytes->data + at + 8, 8);
    length = (size_t)pg_number_of(bytes->data + at + 8, 8);
    pg_bytes body, rest;
    memset(&body, 0, sizeof body);
    memset(&rest, 0, sizeof rest);
    pg_put(&body, bytes->data + at + 16, length);
    pg_put(&rest, bytes->data + at + 16 + length, bytes->size - at - 16 - length);
    mutate(&body, random);
    pg_number_le(bytes->data + at + 8, body.size, 8);
    bytes->size = at + 16;
    pg_put(bytes, body.data, body.size);
    pg_put(bytes, rest.data, rest.size);
    pg_free(&body);
    pg_free(&rest);
}

static int fuzz(int argc, char **argv, const pg_simulation *simulation) {
    long count = argc > 3 ? atol(argv[2]) : 0, ends[8] = {0};
    pg_random random = pg_seeded(argc > 3 ? (uint64_t)atol(argv[3]) : 0);
    FILE *file = argc > 3 ? fopen(argv[1], "rb") : NULL;
    pg_bytes whole;
    memset(&whole, 0, sizeof whole);
    if (file == NULL || freopen("/dev/null", "w", stderr) == NULL) return 2;
    pg_reserve(&whole, (size_t)1 << 20);
    whole.size = fread(whole.data, 1, whole.room, file);
    fclose(file);
    for (long i = 0; i < count; i++) {
        int pair[2];
        pthread_t thread;
        pg_bytes bytes;
        pg_worker w;
        peer parent;
        memset(&bytes, 0, sizeof bytes);
        memset(&w, 0, sizeof w);
        pg_put(&bytes, whole.data, whole.size);
        if (i % 3 == 1) mutate(&bytes, &random);
        if (i % 3 == 2) mutate_body(&bytes, &random);
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 2;
        fcntl(pair[0], F_SETFL, O_NONBLOCK);
        parent.file = pair[1];
        parent.bytes = &bytes;
        if (pthread_create(&thread, NULL, talk, &parent) != 0) return 2;
        pg_set_up(&w, simulation, 4);
        w.link.file = pair[0];
        if (i % 2 == 0) w.next_look = 1e18; /* the end of the conversation, which has come already, ends no rollout */
        int status = pg_work(&w);
        if (i % 3 == 0 && status != PG_DONE) return 3; /* an unchanged conversation goes well */
        ends[status]++;
        pg_free_worker(&w);
        pthread_join(thread, NULL);
        pg_free(&bytes);
    }
    printf("%ld done, %ld lost, %ld refused\n", ends[PG_DONE], ends[PG_LOST], ends[PG_REFUSED]);
    pg_free(&whole);
    return 0;
}
