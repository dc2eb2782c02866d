/* A stand-in for libnvidia-ml.so.1 that plays scripted boards, so that the true energy is known.
 *
 * nvmlInit reads the script named by STUB_NVML, one statement a line:
 *
 *   driver VERSION
 *   epoch S                        time 0 of every power trace, on the monotonic clock
 *   gpu ARCHITECTURE NAME          begins a board; what follows belongs to it
 *   power T_S W                    the board's true power, linear between the points given
 *   sensor UPDATE_S WINDOW_S GAIN  fresh values every UPDATE_S, each the mean over WINDOW_S
 *   average WINDOW_S               window of the averaged reading
 *   legacy instant|average         what nvmlDeviceGetPowerUsage shows
 *   without counter|instant|average|legacy
 *   module W                       constant power of the superchip around it
 *   mig                            MIG is on
 *   reset T_S                      the counter starts at zero again
 *   lost T_S                       the board falls off the bus
 *   fail counter|power FROM TO     these reads fail with NVML_ERROR_UNKNOWN
 *   throttle POLICY FROM TO        the clocks are held back by that policy
 *   process PID
 *
 * Time is CLOCK_MONOTONIC, or what stub_set_time was given. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, LOST = 15, UNKNOWN = 999 };
enum { POINTS = 40000, BOARDS = 8, SPANS = 16 };
enum { FIELD_ENERGY = 83, FIELD_AVERAGE = 185, FIELD_INSTANT = 186, UNSIGNED = 1, LONG_LONG = 3 };

typedef struct { int what; double from, to; } Span;

typedef struct {
    char name[96];
    unsigned architecture;
    int points, has_counter, has_instant, has_average, has_legacy, legacy_average, mig;
    double t[POINTS], p[POINTS], joules[POINTS];
    double update, window, average, gain, module, reset, lost;
    int fails, throttles, processes;
    Span fail[SPANS], throttle[SPANS];
    unsigned pid[SPANS];
} Board;

typedef struct {
    unsigned field, scope;
    int64_t timestamp, latency;
    unsigned type, result;
    union { double d; unsigned u; unsigned long long l; } value;
} FieldValue;

typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute; } Process;

static Board boards[BOARDS];
static int count, started;
static double epoch, fake = NAN;
static char driver[80];

void stub_set_time(double t) { fake = t; }

static double now(void) {
    struct timespec ts;
    if (!isnan(fake)) return fake - epoch;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec - epoch;
}

/* Integral of the true power from the first point to t. */
static double energy_to(const Board *b, double t) {
    int low = 0, high = b->points - 1;
    if (b->points == 0) return 0.0;
    if (t <= b->t[0]) return b->p[0] * (t - b->t[0]);
    if (t >= b->t[high]) return b->joules[high] + b->p[high] * (t - b->t[high]);
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (b->t[middle] <= t) low = middle; else high = middle;
    }
    double span = b->t[high] - b->t[low], part = t - b->t[low];
    double power = span > 0 ? b->p[low] + (b->p[high] - b->p[low]) * part / span : b->p[high];
    return b->joules[low] + 0.5 * (b->p[low] + power) * part;
}

static double last_update(const Board *b) { return floor(now() / b->update) * b->update; }

static double shown(const Board *b, double window) {
    double t = last_update(b);
    return b->gain * (energy_to(b, t) - energy_to(b, t - window)) / window;
}

static unsigned long long counter_mj(const Board *b) {
    double t = last_update(b), from = t >= b->reset ? b->reset : -1e4;
    return (unsigned long long)(1e3 * b->gain * (energy_to(b, t) - energy_to(b, from)));
}

static int failing(const Board *b, int what) {
    double t = now();
    if (t >= b->lost) return LOST;
    for (int i = 0; i < b->fails; i++)
        if (b->fail[i].what == what && t >= b->fail[i].from && t < b->fail[i].to) return UNKNOWN;
    return SUCCESS;
}

static int lost(const Board *b) { return now() >= b->lost ? LOST : SUCCESS; }

static void begin_board(unsigned architecture, const char *name) {
    Board *b = &boards[count++];
    memset(b, 0, sizeof *b);
    snprintf(b->name, sizeof b->name, "%s", name);
    b->architecture = architecture;
    b->has_counter = b->has_instant = b->has_average = b->has_legacy = 1;
    b->update = b->window = 0.1;
    b->average = b->gain = 1.0;
    b->module = -1.0;
    b->reset = b->lost = INFINITY;
}

static void read_line(char *line) {
    Board *b = count ? &boards[count - 1] : NULL;
    char word[96];
    unsigned number;
    double x, y, z;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "driver %79s", driver) == 1) return;
    if (sscanf(line, "epoch %lf", &epoch) == 1) return;
    if (sscanf(line, "gpu %u %95[^\n]", &number, word) == 2) { begin_board(number, word); return; }
    if (b == NULL) return;
    if (sscanf(line, "power %lf %lf", &x, &y) == 2) {
        int i = b->points++;
        b->t[i] = x;
        b->p[i] = y;
        b->joules[i] = i ? b->joules[i - 1] + 0.5 * (b->p[i - 1] + y) * (x - b->t[i - 1]) : 0.0;
    } else if (sscanf(line, "sensor %lf %lf %lf", &x, &y, &z) == 3) {
        b->update = x; b->window = y; b->gain = z;
    } else if (sscanf(line, "average %lf", &x) == 1) b->average = x;
    else if (sscanf(line, "legacy %95s", word) == 1) b->legacy_average = !strcmp(word, "average");
    else if (sscanf(line, "module %lf", &x) == 1) b->module = x;
    else if (sscanf(line, "reset %lf", &x) == 1) b->reset = x;
    else if (sscanf(line, "lost %lf", &x) == 1) b->lost = x;
    else if (sscanf(line, "process %u", &number) == 1) b->pid[b->processes++] = number;
    else if (sscanf(line, "fail %95s %lf %lf", word, &x, &y) == 3)
        b->fail[b->fails++] = (Span){ word[0], x, y };
    else if (sscanf(line, "throttle %u %lf %lf", &number, &x, &y) == 3)
        b->throttle[b->throttles++] = (Span){ (int)number, x, y };
    else if (!strncmp(line, "mig", 3)) b->mig = 1;
    else if (sscanf(line, "without %95s", word) == 1) {
        if (!strcmp(word, "counter")) b->has_counter = 0;
        if (!strcmp(word, "instant")) b->has_instant = 0;
        if (!strcmp(word, "average")) b->has_average = 0;
        if (!strcmp(word, "legacy")) b->has_legacy = 0;
    }
}

int nvmlInitWithFlags(unsigned flags) {
    const char *path = getenv("STUB_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    (void)flags;
    if (file == NULL) return DRIVER_NOT_LOADED;
    count = 0;
    epoch = 0.0;
    while (fgets(line, sizeof line, file)) read_line(line);
    fclose(file);
    started++;
    return SUCCESS;
}

int nvmlShutdown(void) { started--; return SUCCESS; }
int stub_open_sessions(void) { return started; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    snprintf(text, size, "%s", driver);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *n) { *n = (unsigned)count; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Board **b) {
    if (index >= (unsigned)count) return 2;
    *b = &boards[index];
    return lost(*b);
}

int nvmlDeviceGetName(Board *b, char *text, unsigned size) {
    snprintf(text, size, "%s", b->name);
    return lost(b);
}

int nvmlDeviceGetUUID(Board *b, char *text, unsigned size) {
    snprintf(text, size, "GPU-%04d-stub", (int)(b - boards));
    return lost(b);
}

int nvmlDeviceGetArchitecture(Board *b, unsigned *value) { *value = b->architecture; return lost(b); }

int nvmlDeviceGetMigMode(Board *b, unsigned *current, unsigned *pending) {
    *current = *pending = (unsigned)b->mig;
    return lost(b);
}

int nvmlDeviceGetTotalEnergyConsumption(Board *b, unsigned long long *value) {
    if (!b->has_counter) return NOT_SUPPORTED;
    *value = counter_mj(b);
    return failing(b, 'c');
}

int nvmlDeviceGetPowerUsage(Board *b, unsigned *value) {
    if (!b->has_legacy) return NOT_SUPPORTED;
    *value = (unsigned)(1e3 * shown(b, b->legacy_average ? b->average : b->window));
    return failing(b, 'p');
}

int nvmlDeviceGetFieldValues(Board *b, int n, FieldValue *values) {
    if (lost(b)) return LOST;
    for (int i = 0; i < n; i++) {
        FieldValue *v = &values[i];
        v->result = NOT_SUPPORTED;
        v->type = UNSIGNED;
        if (v->scope == 1) {
            if (b->module < 0) continue;
            v->value.u = (unsigned)(1e3 * b->module);
        } else if (v->field == FIELD_INSTANT && b->has_instant) {
            v->value.u = (unsigned)(1e3 * shown(b, b->window));
        } else if (v->field == FIELD_AVERAGE && b->has_average) {
            v->value.u = (unsigned)(1e3 * shown(b, b->average));
        } else if (v->field == FIELD_ENERGY && b->has_counter) {
            v->type = LONG_LONG;
            v->value.l = counter_mj(b);
        } else continue;
        v->result = (unsigned)failing(b, v->field == FIELD_ENERGY ? 'c' : 'p');
    }
    return SUCCESS;
}

int nvmlDeviceGetViolationStatus(Board *b, unsigned policy, unsigned long long *time) {
    double held = 0.0, t = now();
    for (int i = 0; i < b->throttles; i++)
        if (b->throttle[i].what == (int)policy && t > b->throttle[i].from)
            held += fmin(t, b->throttle[i].to) - b->throttle[i].from;
    time[0] = (unsigned long long)(1e9 * fmax(t, 0.0));
    time[1] = (unsigned long long)(1e9 * held);
    return lost(b);
}

int nvmlDeviceGetClockInfo(Board *b, unsigned kind, unsigned *mhz) {
    *mhz = kind == 2 ? 9751 : 1410;
    return lost(b);
}

int nvmlDeviceGetTemperature(Board *b, unsigned sensor, unsigned *celsius) {
    (void)sensor;
    *celsius = 54;
    return lost(b);
}

int nvmlDeviceGetEnforcedPowerLimit(Board *b, unsigned *mw) { *mw = 250000; return lost(b); }

int nvmlDeviceGetUtilizationRates(Board *b, unsigned *rates) {
    rates[0] = 97;
    rates[1] = 40;
    return lost(b);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Board *b, unsigned *n, Process *list) {
    unsigned room = *n;
    *n = (unsigned)b->processes;
    if (lost(b)) return LOST;
    if (b->processes == 0) return SUCCESS;
    if (list == NULL || room < *n) return INSUFFICIENT_SIZE;
    for (int i = 0; i < b->processes; i++) list[i] = (Process){ b->pid[i], 1 << 20, 0, 0 };
    return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Board *b, unsigned *n, Process *list) {
    (void)list;
    *n = 0;
    return lost(b);
}
