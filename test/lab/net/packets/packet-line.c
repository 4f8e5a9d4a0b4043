/*
 * A wide area network of packets between two network namespaces: what netem does, for kernels that have none.
 *
 *     packet-line MTU
 *
 * Makes two namespaces without a name, "a" (10.77.0.1) and "b" (10.77.0.2), with a tun device each, and
 * carries the packets between them. Each direction is a bottleneck with a rate and a drop-tail queue, and the
 * way behind it with a delay, jitter and loss. Packets are never reordered: jitter that would do so lets the
 * later one wait.
 *
 * The first line on stdout is `ready FD FD`: descriptors of the two namespaces, for
 * `nsenter --net=/proc/PID/fd/FD`. They, and all in them, are gone when this process and those in them are.
 *
 * Then it takes commands on stdin, one a line, and answers each with a line of JSON. DIRECTION is `ab`, `ba`
 * or `both`. It ends with its stdin.
 *
 *     rate DIRECTION MBIT        0: no limit. From the next packet on.
 *     delay DIRECTION MS         one way
 *     jitter DIRECTION MS        added to the delay, at random between 0 and this
 *     loss DIRECTION PERCENT     dropped behind the queue, at random, the same ones each time
 *     queue DIRECTION BYTES      that may wait for the bottleneck
 *     blackout DIRECTION 0|1     everything is dropped
 *     stats                      bytes and packets carried, packets dropped, bytes waiting, of each direction
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000.0
/* Packets of a direction that may wait or be on their way; a power of two. */
#define MOST_PACKETS (1u << 17)
/* Packets that one direction takes before it is the other's turn. */
#define BATCH 64
#define DEVICE_QUEUE 4096

struct packet {
	double due; /* on the way: when it arrives */
	uint32_t length;
	unsigned char *bytes;
};

/* First in, first out. The counters run on and wrap. */
struct fifo {
	struct packet *packets;
	uint32_t head, tail;
};

struct direction {
	int in, out;
	double nanoseconds_a_byte, delay, jitter, loss;
	uint64_t most_queued;
	int blackout;
	struct fifo waiting, on_the_way;
	uint64_t queued;    /* bytes in `waiting` */
	double line_free;   /* when the packet that is being sent has been */
	double last_due;
	uint64_t bytes, packets, dropped, lost;
};

static uint64_t chance = 88172645463325252u;

static double uniform(void)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return (double)(chance >> 11) / 9007199254740992.0;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * SECOND + (double)t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "packet-line: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct packet *head_of(struct fifo *f) { return &f->packets[f->head % MOST_PACKETS]; }
static int is_empty(struct fifo *f) { return f->head == f->tail; }
static int is_full(struct fifo *f) { return f->tail - f->head == MOST_PACKETS; }
static void push(struct fifo *f, struct packet p) { f->packets[f->tail++ % MOST_PACKETS] = p; }
static struct packet pop(struct fifo *f) { return f->packets[f->head++ % MOST_PACKETS]; }

static void bring_up(int control, const char *name, const char *address, int mtu)
{
	struct ifreq r;
	memset(&r, 0, sizeof r);
	strcpy(r.ifr_name, name);
	if (address != NULL) {
		struct sockaddr_in *in = (struct sockaddr_in *)&r.ifr_addr;
		in->sin_family = AF_INET;
		inet_pton(AF_INET, address, &in->sin_addr);
		if (ioctl(control, SIOCSIFADDR, &r)) die("SIOCSIFADDR");
		inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
		if (ioctl(control, SIOCSIFNETMASK, &r)) die("SIOCSIFNETMASK");
		r.ifr_mtu = mtu;
		if (ioctl(control, SIOCSIFMTU, &r)) die("SIOCSIFMTU");
		r.ifr_qlen = DEVICE_QUEUE;
		if (ioctl(control, SIOCSIFTXQLEN, &r)) die("SIOCSIFTXQLEN");
	}
	if (ioctl(control, SIOCGIFFLAGS, &r)) die("SIOCGIFFLAGS");
	r.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(control, SIOCSIFFLAGS, &r)) die("SIOCSIFFLAGS");
}

/* Moves into a new namespace. Returns its tun device; `space` is the namespace's descriptor. */
static int new_site(const char *address, int mtu, int *space)
{
	struct ifreq r;
	int tun, control;
	if (unshare(CLONE_NEWNET)) die("a network namespace (root is needed)");
	*space = open("/proc/self/ns/net", O_RDONLY);
	tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (*space < 0 || tun < 0) die("/dev/net/tun");
	memset(&r, 0, sizeof r);
	r.ifr_flags = IFF_TUN | IFF_NO_PI;
	strcpy(r.ifr_name, "wan0");
	if (ioctl(tun, TUNSETIFF, &r)) die("TUNSETIFF");
	control = socket(AF_INET, SOCK_DGRAM, 0);
	if (control < 0) die("socket");
	bring_up(control, "lo", NULL, 0);
	bring_up(control, "wan0", address, mtu);
	close(control);
	return tun;
}

static void start_direction(struct direction *d, int in, int out)
{
	memset(d, 0, sizeof *d);
	d->in = in;
	d->out = out;
	d->most_queued = 1 << 20;
	d->waiting.packets = calloc(MOST_PACKETS, sizeof(struct packet));
	d->on_the_way.packets = calloc(MOST_PACKETS, sizeof(struct packet));
	if (d->waiting.packets == NULL || d->on_the_way.packets == NULL) die("memory");
}

/* Takes what has come in; returns whether there may be more. */
static int take(struct direction *d)
{
	static unsigned char buffer[65536];
	for (int count = 0; count < BATCH; count++) {
		struct packet p = {0};
		ssize_t n = read(d->in, buffer, sizeof buffer);
		if (n <= 0) return 0;
		if (d->blackout || d->queued + (uint64_t)n > d->most_queued || is_full(&d->waiting)) {
			d->dropped++;
			continue;
		}
		p.length = (uint32_t)n;
		p.bytes = malloc((size_t)n);
		if (p.bytes == NULL) die("memory");
		memcpy(p.bytes, buffer, (size_t)n);
		if (is_empty(&d->waiting)) {
			double t = now();
			if (d->line_free < t) d->line_free = t;
		}
		push(&d->waiting, p);
		d->queued += p.length;
	}
	return 1;
}

/* Sends what the line has had time for, and delivers what has arrived. Returns when there is more to do. */
static double pump(struct direction *d)
{
	double t = now(), next = 0;
	while (!is_empty(&d->waiting) && !is_full(&d->on_the_way)) {
		double sent = d->line_free + head_of(&d->waiting)->length * d->nanoseconds_a_byte;
		if (sent > t) {
			next = sent;
			break;
		}
		struct packet p = pop(&d->waiting);
		d->queued -= p.length;
		d->line_free = sent;
		if (d->loss > 0 && uniform() < d->loss) {
			d->lost++;
			free(p.bytes);
			continue;
		}
		p.due = sent + d->delay + (d->jitter > 0 ? uniform() * d->jitter : 0);
		if (p.due < d->last_due) p.due = d->last_due;
		d->last_due = p.due;
		push(&d->on_the_way, p);
	}
	while (!is_empty(&d->on_the_way) && head_of(&d->on_the_way)->due <= t) {
		struct packet p = pop(&d->on_the_way);
		if (d->blackout || write(d->out, p.bytes, p.length) < 0) d->dropped++;
		else {
			d->bytes += p.length;
			d->packets++;
		}
		free(p.bytes);
	}
	if (!is_empty(&d->on_the_way)) {
		double due = head_of(&d->on_the_way)->due;
		if (next == 0 || due < next) next = due;
	}
	return next;
}

static int set(struct direction *d, const char *what, double value)
{
	if (!strcmp(what, "rate")) d->nanoseconds_a_byte = value > 0 ? 8e3 / value : 0;
	else if (!strcmp(what, "delay")) d->delay = value * 1e6;
	else if (!strcmp(what, "jitter")) d->jitter = value * 1e6;
	else if (!strcmp(what, "loss")) d->loss = value / 100;
	else if (!strcmp(what, "queue")) d->most_queued = (uint64_t)value;
	else if (!strcmp(what, "blackout")) d->blackout = value != 0;
	else return 0;
	return 1;
}

static void print_stats(const char *name, struct direction *d, const char *end)
{
	printf("\"%s\":{\"bytes\":%llu,\"packets\":%llu,\"dropped\":%llu,\"lost\":%llu,\"queued\":%llu}%s", name,
	       (unsigned long long)d->bytes, (unsigned long long)d->packets, (unsigned long long)d->dropped,
	       (unsigned long long)d->lost, (unsigned long long)d->queued, end);
}

static void obey(char *line, struct direction d[2])
{
	char what[16], which[8];
	double value;
	int known = 0;
	if (!strcmp(line, "stats")) {
		printf("{");
		print_stats("ab", &d[0], ",");
		print_stats("ba", &d[1], "}\n");
	} else {
		if (sscanf(line, "%15s %7s %lf", what, which, &value) == 3) {
			if (strcmp(which, "ba")) known = set(&d[0], what, value);
			if (strcmp(which, "ab")) known = set(&d[1], what, value);
		}
		if (known) printf("{}\n");
		else printf("{\"error\":\"unknown command\"}\n");
	}
	fflush(stdout);
}

/* Returns 0 at the end of stdin. */
static int read_commands(struct direction d[2])
{
	static char text[4096];
	static size_t length;
	char *end;
	ssize_t n = read(0, text + length, sizeof text - 1 - length);
	if (n <= 0) return n < 0 && errno == EAGAIN;
	length += (size_t)n;
	text[length] = 0;
	while ((end = strchr(text, '\n')) != NULL) {
		*end = 0;
		obey(text, d);
		length -= (size_t)(end + 1 - text);
		memmove(text, end + 1, length + 1);
	}
	return length < sizeof text - 1;
}

int main(int count, char **words)
{
	struct direction d[2];
	int mtu = count > 1 ? atoi(words[1]) : 1500, spaces[2];
	int a = new_site("10.77.0.1", mtu, &spaces[0]), b = new_site("10.77.0.2", mtu, &spaces[1]);
	/* The kernel may let a sleeper lie for 50 us, four packets of a gigabit line. */
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	start_direction(&d[0], a, b);
	start_direction(&d[1], b, a);
	printf("ready %d %d\n", spaces[0], spaces[1]);
	fflush(stdout);
	for (;;) {
		struct pollfd p[3] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {0, POLLIN, 0}};
		int more = take(&d[0]);
		more |= take(&d[1]);
		double next[2] = {pump(&d[0]), pump(&d[1])};
		double first = next[0] == 0 || (next[1] != 0 && next[1] < next[0]) ? next[1] : next[0];
		double wait = more ? 0 : first - now();
		if (wait < 0) wait = 0;
		struct timespec t = {(time_t)(wait / SECOND), 0};
		t.tv_nsec = (long)(wait - (double)t.tv_sec * SECOND);
		if (ppoll(p, 3, !more && first == 0 ? NULL : &t, NULL) < 0 && errno != EINTR) die("ppoll");
		if (p[2].revents != 0 && !read_commands(d)) return 0;
	}
}
