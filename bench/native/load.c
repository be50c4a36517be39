// The client of the proxy benchmark: many connections, every byte checked, one line of JSON.
//
//     load --port P [options]
//
//     --path P          of every request; its query tells the stub what to answer
//     --get             GET without a body, instead of POST
//     --body-bytes N    size of the request's body; the default is a short chat request
//     --model-last      the body names its model at the end, not at the beginning
//     --expect WHAT     what must come back: small, stream, big, count or any
//     --chunks N        how many events a stream must have
//     --bytes N         how long a big body must be
//     --conns N         connections; each has one request at a time
//     --requests N      stop after so many requests ...
//     --seconds S       ... or after so many seconds, whatever comes first
//     --cut             when the seconds are over, leave in the middle of the answers
//     --spread-ms N     first requests are spread over so long, instead of all at once
//     --interval-ms N   pause of each connection from the start of one request to the next
//     --read-rate N     bytes per second that each connection reads of a body, at most
//     --hold S          keep the connections for so long after the last request
//     --cpu N           run on this processor
//
// A server may close a kept connection while a request is on its way to it. Like any HTTP
// client, this one then asks again on a new connection, and counts a reconnect, no error.
//
// Before a hold the line {"event":"holding"} is printed. The last line has the figures:
// times in microseconds. What went wrong first is said on stderr.

#include "common.h"

#include <sys/resource.h>

#define HEAD_BYTES 16384
// Without a response for so long, the client gives up.
#define SILENCE_NS 60000000000u
#define SLOW_TICK_NS 20000000u

typedef enum { EXPECT_ANY, EXPECT_SMALL, EXPECT_STREAM, EXPECT_BIG, EXPECT_COUNT } expectation;

typedef struct {
    int port, conns, cpu;
    const char *path;
    bool get, model_last, cut;
    size_t body_bytes;
    expectation expect;
    long chunks, requests;
    uint64_t bytes, spread_ns, interval_ns, read_rate;
    double seconds, hold_s;
} options;

typedef struct {
    enum { WAITING, IN_HEAD, IN_BODY, OVER } phase;
    int fd;
    bool want_write, reading;
    bool used; // it had a whole exchange already
    uint64_t start_ns;   // WAITING: when the next request is to be sent
    uint64_t sent_ns;    // when this request was begun
    size_t request_sent; // bytes of it

    char head[HEAD_BYTES + 1];
    size_t head_bytes;
    int status;
    bool chunked, close_after;
    chunk_decoder decoder;
    uint64_t body_left, body_bytes;

    char event[HEAD_BYTES + 1]; // EXPECT_STREAM: the event that is not complete yet;
    size_t event_bytes;         // otherwise the beginning of the body
    long events;
    bool usage_seen, done_seen, first_seen;
    bool wrong; // an error of this exchange was counted already
} connection;

typedef struct {
    uint64_t *values;
    size_t count, room;
} samples;

static options opt = {.conns = 1, .cpu = -1, .path = "/v1/chat/completions"};
static int epoll_fd;
static char *request;
static size_t request_bytes;
static uint64_t begun_ns, end_ns, last_news_ns;
static long started, completed, errors, reconnects, active;
static uint64_t events_seen, content_bytes;
static samples latencies, first_bytes, event_ages;

static void add_sample(samples *s, uint64_t value) {
    if (s->count == s->room) {
        s->room = s->room * 2 + 4096;
        s->values = must_realloc(s->values, s->room * sizeof *s->values);
    }
    s->values[s->count++] = value;
}

static void wrong(connection *c, const char *format, ...) {
    if (c->wrong) return;
    c->wrong = true;
    if (errors++ >= 5) return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
}

// -- requests -------------------------------------------------------------------------

static void make_request(void) {
    static const char model[] = "\"model\":\"m1\"";
    static const char rest[] = "\"temperature\":0.7,\"max_tokens\":256";
    static const char messages[] =
        "\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},"
        "{\"role\":\"user\",\"content\":\"Why is the sky blue? ";
    const char *stream = opt.expect == EXPECT_STREAM ? ",\"stream\":true" : "";
    size_t bare = sizeof model + sizeof messages + sizeof rest + strlen(stream) + 16;
    size_t fill = opt.body_bytes > bare ? opt.body_bytes - bare : 0;
    char *body = must_realloc(NULL, bare + fill + 64);
    int size = sprintf(body, "{%s%s%s", opt.model_last ? "" : model, opt.model_last ? "" : ",",
                       messages);
    memset(body + size, 'A', fill);
    size += (int)fill;
    size += sprintf(body + size, "\"}],%s%s%s%s}", rest, stream, opt.model_last ? "," : "",
                    opt.model_last ? model : "");
    request = must_realloc(NULL, (size_t)size + 2048);
    int head = sprintf(request,
                       "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\n"
                       "Accept-Encoding: gzip, deflate\r\nUser-Agent: OpenAI/Python 2.0.0\r\n"
                       "Authorization: Bearer sk-none\r\nX-Stainless-Lang: python\r\n",
                       opt.get ? "GET" : "POST", opt.path, opt.port);
    if (opt.get) {
        head += sprintf(request + head, "\r\n");
        size = 0;
    } else {
        head += sprintf(request + head,
                        "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", size);
        memcpy(request + head, body, (size_t)size);
    }
    request_bytes = (size_t)(head + size);
    opt.body_bytes = (size_t)size;
    free(body);
}

static void watch(connection *c) {
    struct epoll_event event = {
        .events = (c->reading ? EPOLLIN : 0) | (c->want_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void open_connection(connection *c) {
    int one = 1, small = 65536;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    // A slow reader must be slow for its peer, not for the buffers of the kernel.
    if (opt.read_rate > 0) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)opt.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        perror("load: cannot connect");
        exit(2);
    }
    c->reading = true;
    c->want_write = c->used = false;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

static void close_connection(connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static void send_request(connection *c) {
    while (c->request_sent < request_bytes) {
        ssize_t sent = send(c->fd, request + c->request_sent, request_bytes - c->request_sent,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return; // the answer, or the end, says more
        if (sent < 0) {
            if (!c->want_write) {
                c->want_write = true;
                watch(c);
            }
            return;
        }
        c->request_sent += (size_t)sent;
    }
    if (c->want_write) {
        c->want_write = false;
        watch(c);
    }
}

static bool may_start(void) {
    if (opt.requests > 0 && started >= opt.requests) return false;
    return end_ns == 0 || now_ns() < end_ns;
}

static void begin_request(connection *c) {
    if (!may_start()) {
        c->phase = OVER;
        active--;
        return;
    }
    started++;
    if (c->fd < 0) open_connection(c);
    c->phase = IN_HEAD;
    c->request_sent = c->head_bytes = c->event_bytes = 0;
    c->events = 0;
    c->body_bytes = 0;
    c->usage_seen = c->done_seen = c->first_seen = c->wrong = false;
    c->decoder = (chunk_decoder){0};
    c->sent_ns = now_ns();
    send_request(c);
}

static void next_request(connection *c, uint64_t now) {
    c->start_ns = opt.interval_ns > 0 ? c->sent_ns + opt.interval_ns : now;
    c->phase = WAITING;
    if (c->start_ns <= now) begin_request(c);
}

// -- checking what comes back ---------------------------------------------------------

// A hexadecimal number of a fixed number of digits.
static uint64_t hexadecimal(const char *digits, size_t count) {
    char copy[17];
    memcpy(copy, digits, count);
    copy[count] = '\0';
    return strtoull(copy, NULL, 16);
}

static void check_event(connection *c, uint64_t now) {
    c->event[c->event_bytes] = '\0';
    const char *mark = strstr(c->event, EVENT_MARK);
    if (mark != NULL) {
        const char *sent = mark + strlen(EVENT_MARK);
        const char *between = sent + 16;
        if (strlen(sent) < 16 + strlen(EVENT_BETWEEN) + 8 ||
            strncmp(between, EVENT_BETWEEN, strlen(EVENT_BETWEEN)) != 0) {
            wrong(c, "an event is mangled: %.200s", c->event);
            return;
        }
        uint64_t sent_ns = hexadecimal(sent, 16);
        uint64_t number = hexadecimal(between + strlen(EVENT_BETWEEN), 8);
        if (number != (uint64_t)c->events || c->usage_seen) {
            wrong(c, "event %llu came where %ld was due", (unsigned long long)number, c->events);
        }
        c->events++;
        events_seen++;
        add_sample(&event_ages, now > sent_ns ? now - sent_ns : 0);
    } else if (strstr(c->event, "\"usage\"") != NULL && !c->usage_seen) {
        c->usage_seen = true;
    } else if (strcmp(c->event, "data: [DONE]\n\n") == 0 && c->usage_seen && !c->done_seen) {
        c->done_seen = true;
    } else {
        wrong(c, "an event that was not sent: %.200s", c->event);
    }
}

static void take_events(connection *c, const char *data, size_t size, uint64_t now) {
    while (size > 0) {
        const char *line_end = memchr(data, '\n', size);
        size_t taken = line_end != NULL ? (size_t)(line_end - data) + 1 : size;
        if (c->event_bytes + taken > HEAD_BYTES) {
            wrong(c, "an event is too long");
            c->event_bytes = 0;
            return;
        }
        memcpy(c->event + c->event_bytes, data, taken);
        c->event_bytes += taken;
        data += taken;
        size -= taken;
        if (c->event_bytes >= 2 && memcmp(c->event + c->event_bytes - 2, "\n\n", 2) == 0) {
            check_event(c, now);
            c->event_bytes = 0;
        }
    }
}

static void take_content(connection *c, const char *data, size_t size, uint64_t now) {
    if (!c->first_seen) {
        c->first_seen = true;
        add_sample(&first_bytes, now - c->sent_ns);
    }
    if (opt.expect == EXPECT_STREAM) {
        take_events(c, data, size, now);
    } else if (opt.expect == EXPECT_BIG) {
        const char *pattern = big_pattern();
        for (size_t done = 0; done < size;) {
            size_t block = size - done < BLOCK_BYTES ? size - done : BLOCK_BYTES;
            if (memcmp(data + done, pattern + (c->body_bytes + done) % PATTERN_BYTES, block) != 0) {
                wrong(c, "a big body is not what was sent, near byte %llu",
                      (unsigned long long)(c->body_bytes + done));
            }
            done += block;
        }
    } else {
        size_t kept = size < HEAD_BYTES - c->event_bytes ? size : HEAD_BYTES - c->event_bytes;
        memcpy(c->event + c->event_bytes, data, kept);
        c->event_bytes += kept;
    }
    c->body_bytes += size;
    content_bytes += size;
}

static void check_whole(connection *c) {
    c->event[c->event_bytes] = '\0';
    char count[64];
    snprintf(count, sizeof count, "{\"received\":%zu}", opt.body_bytes);
    if (c->status != 200) {
        wrong(c, "status %d: %.300s", c->status, opt.expect == EXPECT_STREAM ? "" : c->event);
    } else if (opt.expect == EXPECT_SMALL && strcmp(c->event, SMALL_BODY) != 0) {
        wrong(c, "the small answer is not what was sent: %.300s", c->event);
    } else if (opt.expect == EXPECT_COUNT && strcmp(c->event, count) != 0) {
        wrong(c, "%s was sent, the stub says %.300s", count, c->event);
    } else if (opt.expect == EXPECT_BIG && c->body_bytes != opt.bytes) {
        wrong(c, "a big body has %llu bytes", (unsigned long long)c->body_bytes);
    } else if (opt.expect == EXPECT_STREAM && (c->events != opt.chunks || !c->done_seen)) {
        wrong(c, "a stream ended after %ld of %ld events", c->events, opt.chunks);
    }
}

static void finish_answer(connection *c, uint64_t now) {
    check_whole(c);
    add_sample(&latencies, now - c->sent_ns);
    completed++;
    c->used = true;
    if (c->close_after || c->want_write) close_connection(c); // want_write: answered too early
    next_request(c, now);
}

// -- reading --------------------------------------------------------------------------

// Take the head of an answer; return false while it is not complete.
static bool take_head(connection *c, const char **data, size_t *size) {
    for (;;) {
        size_t room = HEAD_BYTES - c->head_bytes;
        size_t taken = *size < room ? *size : room;
        memcpy(c->head + c->head_bytes, *data, taken);
        size_t before = c->head_bytes;
        c->head_bytes += taken;
        char *end = memmem(c->head, c->head_bytes, "\r\n\r\n", 4);
        if (end == NULL) {
            if (c->head_bytes == HEAD_BYTES) wrong(c, "the head of an answer is too long");
            return false;
        }
        size_t used = (size_t)(end - c->head) + 4 - before;
        *data += used;
        *size -= used;
        end[2] = '\0';
        c->head_bytes = 0;
        c->status = atoi(c->head + strlen("HTTP/1.1 "));
        if (c->status != 100) break;
    }
    const char *coding = header_value(c->head, "transfer-encoding");
    const char *length = header_value(c->head, "content-length");
    const char *option = header_value(c->head, "connection");
    c->chunked = coding != NULL && strncasecmp(coding, "chunked", 7) == 0;
    c->body_left = length != NULL ? strtoull(length, NULL, 10) : 0;
    c->close_after = option != NULL && strncasecmp(option, "close", 5) == 0;
    if (!c->chunked && length == NULL) wrong(c, "an answer without framing: %.300s", c->head);
    c->phase = IN_BODY;
    return true;
}

static void take_data(connection *c, const char *data, size_t size, uint64_t now) {
    if (c->phase != IN_HEAD && c->phase != IN_BODY) {
        wrong(c, "bytes without a request");
        return;
    }
    if (c->phase == IN_HEAD && !take_head(c, &data, &size)) return;
    if (c->chunked) {
        size_t content;
        while ((content = next_content(&c->decoder, &data, &size)) > 0) {
            take_content(c, data, content, now);
            data += content;
            size -= content;
        }
        if (c->decoder.state == CHUNK_BROKEN) {
            wrong(c, "broken chunks");
            c->close_after = true;
        }
        if (c->decoder.state < CHUNK_OVER) return;
    } else {
        size_t content = c->body_left < size ? (size_t)c->body_left : size;
        if (content > 0) take_content(c, data, content, now);
        c->body_left -= content;
        size -= content;
        if (c->body_left > 0) return;
    }
    if (size > 0) wrong(c, "bytes after the end of an answer");
    finish_answer(c, now);
}

static void on_readable(connection *c, size_t limit) {
    static char buffer[1 << 20];
    ssize_t size = recv(c->fd, buffer, limit < sizeof buffer ? limit : sizeof buffer, MSG_DONTWAIT);
    uint64_t now = now_ns();
    if (size > 0) {
        last_news_ns = now;
        take_data(c, buffer, (size_t)size, now);
        if (opt.read_rate > 0 && c->reading && c->phase == IN_BODY) {
            c->reading = false; // from now on the clock says when to read
            watch(c);
        }
    } else if (size == 0 || errno != EAGAIN) {
        close_connection(c);
        if (c->phase == IN_HEAD && c->head_bytes == 0 && c->used) {
            reconnects++;
            open_connection(c);
            c->request_sent = 0;
            send_request(c);
        } else if (c->phase == IN_HEAD || c->phase == IN_BODY) {
            wrong(c, "the connection was closed in the middle (%s)",
                  size == 0 ? "end of data" : strerror(errno));
            next_request(c, now);
        }
    }
}

// -- the loop -------------------------------------------------------------------------

// Do what the clock asks for; return until when nothing else is due.
static uint64_t on_time(connection *conns, uint64_t now) {
    uint64_t due_ns = now + 100000000u;
    static uint64_t slow_ns;
    bool slow_due = opt.read_rate > 0 && now >= slow_ns;
    if (slow_due) slow_ns = now + SLOW_TICK_NS;
    if (opt.read_rate > 0 && slow_ns < due_ns) due_ns = slow_ns;
    for (int i = 0; i < opt.conns; i++) {
        connection *c = &conns[i];
        if (c->phase == WAITING && c->start_ns <= now) begin_request(c);
        if (c->phase == WAITING && c->start_ns < due_ns) due_ns = c->start_ns;
        if (slow_due && c->fd >= 0 && !c->reading) {
            on_readable(c, opt.read_rate / (1000000000u / SLOW_TICK_NS));
            if (c->fd >= 0 && c->phase != IN_BODY) {
                c->reading = true;
                watch(c);
            }
        }
    }
    return due_ns;
}

static void run(connection *conns) {
    bool clocked = opt.interval_ns > 0 || opt.spread_ns > 0 || opt.read_rate > 0;
    while (active > 0) {
        uint64_t now = now_ns(), due_ns = now + 100000000u;
        if (clocked) due_ns = on_time(conns, now);
        if (active == 0 || (opt.cut && end_ns > 0 && now >= end_ns)) return;
        if (now > last_news_ns + SILENCE_NS) {
            fprintf(stderr, "load: nothing arrives any more\n");
            errors += active;
            return;
        }
        uint64_t wait_ns = due_ns > now ? due_ns - now : 0;
        struct timespec timeout = {.tv_nsec = (long)wait_ns};
        struct epoll_event events[256];
        int count = epoll_pwait2(epoll_fd, events, 256, &timeout, NULL);
        for (int i = 0; i < count; i++) {
            connection *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT) send_request(c);
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                on_readable(c, SIZE_MAX);
            }
        }
    }
}

// Keep the connections, and count those that the other side closes meanwhile.
static long hold(connection *conns) {
    printf("{\"event\":\"holding\"}\n");
    fflush(stdout);
    usleep((useconds_t)(opt.hold_s * 1e6));
    long closed = 0;
    for (int i = 0; i < opt.conns; i++) {
        char byte;
        if (conns[i].fd < 0 || recv(conns[i].fd, &byte, 1, MSG_DONTWAIT) >= 0) closed++;
    }
    return closed;
}

// -- figures --------------------------------------------------------------------------

static int compare(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

static void print_samples(const char *name, samples *s) {
    static const struct {
        const char *name;
        double part;
    } percentiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}};
    qsort(s->values, s->count, sizeof *s->values, compare);
    for (size_t i = 0; i < sizeof percentiles / sizeof *percentiles && s->count > 0; i++) {
        size_t index = (size_t)(percentiles[i].part * (double)(s->count - 1) + 0.5);
        printf(",\"%s_%s_us\":%.1f", name, percentiles[i].name, (double)s->values[index] / 1000);
    }
}

static void parse_options(int argc, char **argv) {
    static const char *const expectations[] = {"any", "small", "stream", "big", "count"};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--get") == 0) opt.get = true;
        else if (strcmp(name, "--model-last") == 0) opt.model_last = true;
        else if (strcmp(name, "--cut") == 0) opt.cut = true;
        else if (i + 1 == argc) {
            fprintf(stderr, "load: %s needs a value, or is unknown\n", name);
            exit(2);
        } else {
            const char *value = argv[++i];
            bool known = true;
            if (strcmp(name, "--port") == 0) opt.port = atoi(value);
            else if (strcmp(name, "--path") == 0) opt.path = value;
            else if (strcmp(name, "--body-bytes") == 0) opt.body_bytes = strtoull(value, NULL, 10);
            else if (strcmp(name, "--chunks") == 0) opt.chunks = atol(value);
            else if (strcmp(name, "--bytes") == 0) opt.bytes = strtoull(value, NULL, 10);
            else if (strcmp(name, "--conns") == 0) opt.conns = atoi(value);
            else if (strcmp(name, "--requests") == 0) opt.requests = atol(value);
            else if (strcmp(name, "--seconds") == 0) opt.seconds = atof(value);
            else if (strcmp(name, "--spread-ms") == 0) opt.spread_ns = (uint64_t)(atof(value) * 1e6);
            else if (strcmp(name, "--interval-ms") == 0)
                opt.interval_ns = (uint64_t)(atof(value) * 1e6);
            else if (strcmp(name, "--read-rate") == 0) opt.read_rate = strtoull(value, NULL, 10);
            else if (strcmp(name, "--hold") == 0) opt.hold_s = atof(value);
            else if (strcmp(name, "--cpu") == 0) opt.cpu = atoi(value);
            else if (strcmp(name, "--expect") == 0) {
                known = false;
                for (int k = 0; k <= EXPECT_COUNT; k++) {
                    if (strcmp(value, expectations[k]) == 0) {
                        opt.expect = (expectation)k;
                        known = true;
                    }
                }
            } else known = false;
            if (!known) {
                fprintf(stderr, "load: %s %s is unknown\n", name, value);
                exit(2);
            }
        }
    }
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    if (opt.cpu >= 0) pin_to(opt.cpu);
    signal(SIGPIPE, SIG_IGN);
    make_request();
    epoll_fd = epoll_create1(0);
    connection *conns = must_realloc(NULL, (size_t)opt.conns * sizeof *conns);
    memset(conns, 0, (size_t)opt.conns * sizeof *conns);
    for (int i = 0; i < opt.conns; i++) open_connection(&conns[i]);
    usleep(20000); // let the proxy accept them all
    begun_ns = last_news_ns = now_ns();
    if (opt.seconds > 0) end_ns = begun_ns + (uint64_t)(opt.seconds * 1e9);
    active = opt.conns;
    for (int i = 0; i < opt.conns; i++) {
        conns[i].start_ns = begun_ns + opt.spread_ns * (uint64_t)i / (uint64_t)opt.conns;
        if (opt.spread_ns == 0) begin_request(&conns[i]);
    }
    run(conns);
    double wall_s = (double)(now_ns() - begun_ns) / 1e9;
    long closed = opt.hold_s > 0 ? hold(conns) : 0;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu_s = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                   (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"requests\":%ld,\"errors\":%ld,\"reconnects\":%ld,\"wall_s\":%.4f,\"chunks\":%llu,\"bytes\":%llu"
           ",\"closed_while_held\":%ld,\"client_cpu_s\":%.4f",
           completed, errors, reconnects, wall_s, (unsigned long long)events_seen,
           (unsigned long long)content_bytes, closed, cpu_s);
    print_samples("latency", &latencies);
    print_samples("ttft", &first_bytes);
    print_samples("chunk", &event_ages);
    printf("}\n");
    return 0;
}
