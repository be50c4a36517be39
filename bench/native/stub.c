// The upstream of the proxy benchmark: answers like a model server, at next to no cost.
//
//     stub PORT [--cpu N]
//     stub [--cpu N] ... --port PORT ...  as a child of llama.cpp's router, which it tells
//                                         that it is ready; other arguments are ignored
//
// One thread, one epoll. The query of a request says what the answer is:
//
//     ?chunks=N&per_s=R&size=B  a stream of N events of B bytes, R per second, then the usage
//                               event and [DONE]; each event is one chunk, and says when it
//                               was sent. The first event is sent at once.
//              &tick_us=T       the events of all streams are due every T microseconds: many
//                               at the same moment (500, the default), or one by one (20)
//     ?bytes=B                  a body of B bytes (see big_pattern)
//     ?count                    how many bytes the body of the request had
//     anything else             the small JSON answer
//
// Bodies of requests are read and dropped, whatever their framing.

#include "common.h"

#include <sys/prctl.h>

#define HEAD_BYTES 16384
#define EVENT_BYTES 8192
// A stream waits while this much of it is unsent: its proxy does not keep up.
#define BACKLOG_BYTES 262144
// How often the streams are looked at, unless one asks for another tick. Real servers decode
// in batches, too.
#define TICK_US 500

typedef enum { IN_HEAD, IN_BODY, IN_STREAM, IN_BIG } phase;

typedef struct connection {
    int fd;
    phase phase;
    bool want_write;

    char in[HEAD_BYTES + 1]; // a head that is not complete, and what follows an answer too early
    size_t in_bytes;
    char target[512]; // of the request that is being read or answered

    bool chunked; // how the body of the request is framed
    chunk_decoder decoder;
    uint64_t body_left, received;

    char *out; // what the socket did not take yet: [out_sent, out_end) of out_size
    size_t out_sent, out_end, out_size;

    long chunks, sent_chunks, event_bytes; // IN_STREAM
    uint64_t due_ns, period_ns;
    size_t stream_index;

    uint64_t big_bytes, big_sent; // IN_BIG

    struct connection *next_dead;
} connection;

static int epoll_fd;
static connection **streams; // those in IN_STREAM
static size_t stream_count, stream_room;
static uint64_t tick_ns; // of the stream that began last
static connection router; // stands for the pipe from llama.cpp's router
static connection *dead; // freed after the events of one epoll_wait are handled

static void watch(connection *c) {
    struct epoll_event event = {.events = EPOLLIN | (c->want_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void leave_streams(connection *c) {
    connection *last = streams[--stream_count];
    streams[c->stream_index] = last;
    last->stream_index = c->stream_index;
}

static void close_connection(connection *c) {
    if (c->fd < 0) return;
    if (c->phase == IN_STREAM) leave_streams(c);
    c->phase = IN_HEAD;
    close(c->fd);
    c->fd = -1;
    c->next_dead = dead;
    dead = c;
}

// -- writing --------------------------------------------------------------------------

static void send_bytes(connection *c, const char *data, size_t size) {
    if (c->fd < 0) return;
    if (c->out_sent == c->out_end) {
        c->out_sent = c->out_end = 0;
        ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            close_connection(c);
            return;
        }
        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        }
        if (size == 0) return;
    }
    if (c->out_end + size > c->out_size) {
        c->out_size = (c->out_end + size) * 2;
        c->out = must_realloc(c->out, c->out_size);
    }
    memcpy(c->out + c->out_end, data, size);
    c->out_end += size;
    if (!c->want_write) {
        c->want_write = true;
        watch(c);
    }
}

static void send_big(connection *c) {
    const char *pattern = big_pattern();
    // A few blocks at a time: other connections want their turn.
    for (int turns = 0; c->big_sent < c->big_bytes; turns++) {
        uint64_t left = c->big_bytes - c->big_sent;
        size_t size = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
        ssize_t sent = 0;
        if (turns < 4) {
            sent = send(c->fd, pattern + c->big_sent % PATTERN_BYTES, size, MSG_NOSIGNAL);
        }
        if (sent < 0 && errno != EAGAIN) {
            close_connection(c);
            return;
        }
        if (sent <= 0) {
            c->want_write = true;
            watch(c);
            return;
        }
        c->big_sent += (uint64_t)sent;
    }
    c->phase = IN_HEAD;
}

static void on_writable(connection *c) {
    while (c->out_sent < c->out_end) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_end - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) close_connection(c);
            return;
        }
        c->out_sent += (size_t)sent;
    }
    c->out_sent = c->out_end = 0;
    c->want_write = false;
    if (c->phase == IN_BIG) send_big(c);
    if (c->fd >= 0 && !c->want_write) watch(c);
}

// -- answers --------------------------------------------------------------------------

static double parameter(const char *target, const char *name, double otherwise) {
    const char *found = strstr(target, name);
    return found != NULL ? atof(found + strlen(name)) : otherwise;
}

static void answer_whole(connection *c, const char *type, const char *body) {
    char answer[4096];
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 200 OK\r\nServer: stub\r\nContent-Type: %s\r\n"
                        "Content-Length: %zu\r\nKeep-Alive: timeout=600, max=1000000\r\n\r\n%s",
                        type, strlen(body), body);
    c->phase = IN_HEAD;
    send_bytes(c, answer, (size_t)size);
}

static void send_event(connection *c) {
    char event[EVENT_BYTES];
    int size = snprintf(event, sizeof event, EVENT_BEGIN EVENT_MIDDLE,
                        (unsigned long long)now_ns(), (unsigned long)c->sent_chunks);
    long fill = c->event_bytes - size - (long)strlen(EVENT_END);
    if (fill > 0) {
        memset(event + size, 'x', (size_t)fill);
        size += (int)fill;
    }
    size += snprintf(event + size, sizeof event - (size_t)size, EVENT_END);
    char chunk[EVENT_BYTES + 16];
    int chunk_size = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", size, event);
    c->sent_chunks++;
    send_bytes(c, chunk, (size_t)chunk_size);
}

static void send_last(connection *c) {
    char last[1024], chunks[2048];
    int size = snprintf(last, sizeof last, LAST_EVENT, c->chunks, c->chunks + 17, c->chunks);
    int chunks_size = snprintf(chunks, sizeof chunks, "%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", size, last,
                               (int)strlen(DONE_EVENT), DONE_EVENT);
    leave_streams(c);
    c->phase = IN_HEAD;
    send_bytes(c, chunks, (size_t)chunks_size);
}

static void begin_stream(connection *c) {
    double per_s = parameter(c->target, "per_s=", 50);
    tick_ns = (uint64_t)(parameter(c->target, "tick_us=", TICK_US) * 1e3);
    // The kernel may add 50 us to each wait, its default (0), unless that is too much.
    prctl(PR_SET_TIMERSLACK, tick_ns < 100000 ? 1000 : 0);
    c->chunks = (long)parameter(c->target, "chunks=", 1);
    c->event_bytes = (long)parameter(c->target, "size=", 250);
    if (c->event_bytes > EVENT_BYTES - 512) c->event_bytes = EVENT_BYTES - 512;
    c->sent_chunks = 0;
    c->period_ns = (uint64_t)(1e9 / per_s);
    // The second event comes somewhere in the period: streams that begin together drift apart.
    c->due_ns = now_ns() + c->period_ns / 4 + (uint64_t)rand() % (c->period_ns + 1);
    c->phase = IN_STREAM;
    if (stream_count == stream_room) {
        stream_room = stream_room * 2 + 64;
        streams = must_realloc(streams, stream_room * sizeof *streams);
    }
    c->stream_index = stream_count;
    streams[stream_count++] = c;
    static const char head[] =
        "HTTP/1.1 200 OK\r\nServer: stub\r\nContent-Type: text/event-stream\r\n"
        "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n"
        "Keep-Alive: timeout=600, max=1000000\r\n\r\n";
    send_bytes(c, head, sizeof head - 1);
    if (c->fd >= 0) send_event(c);
}

static void begin_big(connection *c) {
    char head[256];
    c->big_bytes = (uint64_t)parameter(c->target, "bytes=", 0);
    c->big_sent = 0;
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nServer: stub\r\nContent-Type: application/octet-stream\r\n"
                        "Content-Length: %llu\r\n\r\n",
                        (unsigned long long)c->big_bytes);
    c->phase = IN_BIG;
    send_bytes(c, head, (size_t)size);
    if (c->fd >= 0 && c->out_end == 0) send_big(c);
}

static void answer(connection *c) {
    if (strstr(c->target, "chunks=") != NULL) {
        begin_stream(c);
    } else if (strstr(c->target, "bytes=") != NULL) {
        begin_big(c);
    } else if (strstr(c->target, "?count") != NULL) {
        char body[64];
        snprintf(body, sizeof body, "{\"received\":%llu}", (unsigned long long)c->received);
        answer_whole(c, "application/json", body);
    } else if (strncmp(c->target, "/health", 7) == 0) {
        answer_whole(c, "application/json", "{\"status\":\"ok\"}");
    } else if (strncmp(c->target, "/v1/models", 10) == 0) {
        answer_whole(c, "application/json",
                     "{\"object\":\"list\",\"data\":[{\"id\":\"m1\",\"object\":\"model\"}]}");
    } else {
        answer_whole(c, "application/json; charset=utf-8", SMALL_BODY);
    }
}

// -- reading --------------------------------------------------------------------------

// Drop what belongs to the body of the request; return how many bytes that was.
static size_t drop_body(connection *c, const char *data, size_t size) {
    if (!c->chunked) {
        size_t taken = c->body_left < size ? (size_t)c->body_left : size;
        c->body_left -= taken;
        c->received += taken;
        return taken;
    }
    const char *at = data;
    size_t left = size, content;
    while ((content = next_content(&c->decoder, &at, &left)) > 0) {
        at += content;
        left -= content;
        c->received += content;
    }
    return size - left;
}

static bool body_complete(const connection *c) {
    return c->chunked ? c->decoder.state == CHUNK_OVER : c->body_left == 0;
}

// Take a complete head off the buffer; return false if there is none yet.
static bool take_head(connection *c) {
    char *end = memmem(c->in, c->in_bytes, "\r\n\r\n", 4);
    if (end == NULL) {
        if (c->in_bytes == HEAD_BYTES) close_connection(c);
        return false;
    }
    size_t head_bytes = (size_t)(end - c->in) + 4;
    end[2] = '\0';
    const char *length = header_value(c->in, "content-length");
    const char *coding = header_value(c->in, "transfer-encoding");
    c->chunked = coding != NULL && strncasecmp(coding, "chunked", 7) == 0;
    c->decoder = (chunk_decoder){0};
    c->body_left = length != NULL ? strtoull(length, NULL, 10) : 0;
    c->received = 0;
    if (header_value(c->in, "expect") != NULL) send_bytes(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    c->target[0] = '\0';
    sscanf(c->in, "%*s %511s", c->target);
    c->in_bytes -= head_bytes;
    memmove(c->in, c->in + head_bytes, c->in_bytes);
    c->phase = IN_BODY;
    return true;
}

static void on_data(connection *c, const char *data, size_t size) {
    while (c->fd >= 0) {
        if (c->phase == IN_BODY) {
            // First what came together with the head, then what came now.
            size_t taken = drop_body(c, c->in, c->in_bytes);
            c->in_bytes -= taken;
            memmove(c->in, c->in + taken, c->in_bytes);
            if (c->in_bytes == 0 && !body_complete(c)) {
                taken = drop_body(c, data, size);
                data += taken;
                size -= taken;
            }
            if (c->chunked && c->decoder.state == CHUNK_BROKEN) close_connection(c);
            else if (body_complete(c)) answer(c);
            else return;
            continue;
        }
        // The head of this request, or the next request while this one is being answered.
        size_t room = HEAD_BYTES - c->in_bytes;
        size_t taken = size < room ? size : room;
        memcpy(c->in + c->in_bytes, data, taken);
        c->in_bytes += taken;
        data += taken;
        size -= taken;
        if (c->phase != IN_HEAD) {
            if (size > 0) close_connection(c);
            return;
        }
        if (c->in_bytes == 0 || !take_head(c)) return;
    }
}

static void on_readable(connection *c) {
    static char buffer[1 << 20];
    ssize_t size = recv(c->fd, buffer, sizeof buffer, 0);
    if (size > 0) on_data(c, buffer, (size_t)size);
    else if (size == 0 || errno != EAGAIN) close_connection(c);
}

// -- the loop -------------------------------------------------------------------------

static void serve_streams(void) {
    uint64_t now = now_ns();
    for (size_t i = 0; i < stream_count;) {
        connection *c = streams[i];
        while (c->phase == IN_STREAM && c->due_ns <= now &&
               c->out_end - c->out_sent < BACKLOG_BYTES) {
            c->due_ns += c->period_ns;
            if (c->sent_chunks == c->chunks) send_last(c);
            else send_event(c);
        }
        if (c->phase == IN_HEAD && c->fd >= 0 && c->in_bytes > 0) on_data(c, "", 0);
        if (i < stream_count && streams[i] == c) i++;
    }
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection *c = must_realloc(NULL, sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 2048) != 0) {
        perror("stub: cannot listen");
        exit(1);
    }
    return listener;
}

// What a llama-server says when its router started it, and how it is told to end.
static void tell_router(void) {
    printf("cmd_child_to_router:state:{\"state\":\"ready\",\"payload\":{\"n_ctx\":4096}}\n");
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &router};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event);
}

int main(int argc, char **argv) {
    int port = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--port") == 0 && i + 1 < argc) port = atoi(argv[++i]);
        else if (strcmp(argv[i], "--cpu") == 0 && i + 1 < argc) pin_to(atoi(argv[++i]));
        else if (i == 1) port = atoi(argv[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(port);
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    if (getenv("LLAMA_SERVER_ROUTER_PORT") != NULL) tell_router();
    uint64_t served_ns = 0;
    for (;;) {
        struct epoll_event events[256];
        struct timespec tick = {.tv_nsec = (long)tick_ns};
        int count = epoll_pwait2(epoll_fd, events, 256, stream_count > 0 ? &tick : NULL, NULL);
        for (int i = 0; i < count; i++) {
            connection *c = events[i].data.ptr;
            if (c == NULL) {
                accept_all(listener);
                continue;
            }
            if (c == &router) return 0; // it says "exit", or it is no more
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(c);
            if (c->fd >= 0 && events[i].events & EPOLLOUT) on_writable(c);
        }
        if (stream_count > 0 && now_ns() - served_ns >= tick_ns) {
            serve_streams();
            served_ns = now_ns();
        }
        while (dead != NULL) {
            connection *c = dead;
            dead = c->next_dead;
            free(c->out);
            free(c);
        }
    }
}
