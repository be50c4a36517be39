// What the stub upstream and the load client agree on, and the HTTP pieces that both need.
//
// The client checks what it receives, so both sides must know what is sent: the one small
// JSON answer, the pattern of big bodies, and what an event of a stream looks like.

#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// -- time, memory, processors ---------------------------------------------------------

// Nanoseconds of a clock that all processes of this machine share.
static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void *must_realloc(void *old, size_t size) {
    void *memory = realloc(old, size);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return memory;
}

// Run on one processor only. The programs pin themselves, because some of them are started
// by a proxy that is pinned to another one.
static inline void pin_to(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        exit(2);
    }
}

// -- what is sent ---------------------------------------------------------------------

// The answer to a small request: a short chat completion as llama-server writes it.
#define SMALL_BODY \
    "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"role\":\"assistant\"," \
    "\"content\":\"Blue light is scattered more than red light, so that is what reaches " \
    "us from all parts of the sky.\"}}],\"created\":1760000000,\"model\":\"m1\"," \
    "\"system_fingerprint\":\"b0000-00000000\",\"object\":\"chat.completion\"," \
    "\"usage\":{\"completion_tokens\":24,\"prompt_tokens\":17,\"total_tokens\":41}," \
    "\"id\":\"chatcmpl-0123456789abcdefghijklmnopqrstuv\"," \
    "\"timings\":{\"prompt_n\":17,\"prompt_ms\":12.5,\"prompt_per_second\":1360.0," \
    "\"predicted_n\":24,\"predicted_ms\":240.0,\"predicted_per_second\":100.0}}"

// An event of a stream begins like this: when it was sent, and which one it is. The two
// numbers are 16 and 8 hexadecimal digits.
#define EVENT_BEGIN "data: {\"sent_ns\":\"%016llx\",\"number\":\"%08lx\","
#define EVENT_MARK "{\"sent_ns\":\""
#define EVENT_BETWEEN "\",\"number\":\""
// ... goes on like an event of llama-server, with a token of the length that is wanted,
#define EVENT_MIDDLE \
    "\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\""
// and ends like this.
#define EVENT_END \
    "\"}}],\"created\":1760000000,\"model\":\"m1\",\"object\":\"chat.completion.chunk\"}\n\n"

// The last event says what the answer cost; after it the stream is over.
#define LAST_EVENT \
    "data: {\"choices\":[],\"created\":1760000000,\"id\":\"chatcmpl-0123456789abcdef\"," \
    "\"model\":\"m1\",\"object\":\"chat.completion.chunk\",\"usage\":{\"completion_tokens\":%ld," \
    "\"prompt_tokens\":17,\"total_tokens\":%ld},\"timings\":{\"prompt_n\":17," \
    "\"prompt_ms\":12.5,\"predicted_n\":%ld,\"predicted_ms\":240.0}}\n\n"
#define DONE_EVENT "data: [DONE]\n\n"

// A big body repeats this many bytes of noise. It is odd, so that a lost or doubled block
// of any usual size shows.
#define PATTERN_BYTES 65521u
#define BLOCK_BYTES 262144u

// Return PATTERN_BYTES + BLOCK_BYTES bytes: a block of a big body from any place in it.
static inline const char *big_pattern(void) {
    static char pattern[PATTERN_BYTES + BLOCK_BYTES];
    static bool made = false;
    if (made) return pattern;
    uint32_t state = 1;
    for (size_t i = 0; i < PATTERN_BYTES; i++) {
        state = state * 1664525u + 1013904223u;
        pattern[i] = (char)(state >> 24);
    }
    for (size_t i = PATTERN_BYTES; i < sizeof pattern; i++) pattern[i] = pattern[i - PATTERN_BYTES];
    made = true;
    return pattern;
}

// -- HTTP -----------------------------------------------------------------------------

// Return where the value of a header begins, or NULL. The head must end with a NUL.
static inline const char *header_value(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            const char *value = line + length + 1;
            return value + strspn(value, " \t");
        }
    }
    return NULL;
}

// A body with "Transfer-Encoding: chunked", decoded as it arrives.
typedef struct {
    enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER, CHUNK_OVER, CHUNK_BROKEN } state;
    uint64_t left;     // bytes of the chunk that are still to come
    size_t line_bytes; // how long the current line of framing is so far
} chunk_decoder;

// Take the next piece of a chunked body: skip framing from *data on, and return how many bytes
// of content follow there; *data is moved to them and *size is what remains from them on. The
// caller takes that many bytes and calls again while *size is not 0.
static inline size_t next_content(chunk_decoder *decoder, const char **data, size_t *size) {
    while (*size > 0 && decoder->state < CHUNK_OVER) {
        char byte = **data;
        if (decoder->state == CHUNK_DATA && decoder->left > 0) {
            size_t content = decoder->left < *size ? (size_t)decoder->left : *size;
            decoder->left -= content;
            return content;
        }
        if (decoder->state == CHUNK_DATA) {
            decoder->state = CHUNK_DATA_END;
            decoder->line_bytes = 0;
        }
        (*data)++;
        (*size)--;
        if (byte == '\r') continue;
        if (decoder->state == CHUNK_SIZE && byte != '\n') {
            int digit = byte >= '0' && byte <= '9'   ? byte - '0'
                        : byte >= 'a' && byte <= 'f' ? byte - 'a' + 10
                        : byte >= 'A' && byte <= 'F' ? byte - 'A' + 10
                                                     : -1;
            if (digit < 0 || decoder->line_bytes++ >= 15) {
                decoder->state = CHUNK_BROKEN; // neither side sends chunk extensions
                return 0;
            }
            decoder->left = decoder->left * 16 + (uint64_t)digit;
        } else if (decoder->state == CHUNK_SIZE) {
            if (decoder->line_bytes == 0) decoder->state = CHUNK_BROKEN;
            else decoder->state = decoder->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
            decoder->line_bytes = 0;
        } else if (decoder->state == CHUNK_DATA_END) {
            decoder->state = byte == '\n' ? CHUNK_SIZE : CHUNK_BROKEN;
        } else if (byte != '\n') {
            decoder->line_bytes++;
        } else {
            if (decoder->line_bytes == 0) decoder->state = CHUNK_OVER;
            decoder->line_bytes = 0;
        }
    }
    return 0;
}

#endif
