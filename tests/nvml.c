/*
 * A libnvidia-ml.so.1 with two GPUs, told what to do by the file that the variable NVML_STUB names, a line each:
 *   NAME CODE     the function fails with that code      NAME@1 CODE   for the second GPU alone
 *   NAME hang     it does not return until the line is gone
 *   xid@0 CODE    the first GPU reports this error, once for every such line
 * Prototypes are those of NVML's documentation; nvml.h is not needed to build it.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct { char unused; } *device_t, *events_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { device_t device; unsigned long long type, data; unsigned instance, compute; } event_t;

static char devices[2];
static device_t owners[2]; /* an event set is the place of its one device */
static int reported[2], made;

static int index_of(const void *device) { return device == (void *)&devices[1]; }

/* The number on the nth line of that name, -1 where it says `hang`, 0 where there is no such line. */
static int line(const char *name, int nth) {
    char told[64], value[64];
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    int found = 0;
    while (file && !found && fscanf(file, "%63s %63s", told, value) == 2)
        if (!strcmp(told, name) && nth-- == 0)
            found = strcmp(value, "hang") ? atoi(value) : -1;
    if (file) fclose(file);
    return found;
}

static int code(const char *name) {
    int found;
    while ((found = line(name, 0)) == -1) usleep(1000);
    return found;
}

static int fails(const char *name, const void *device) {
    char one[64];
    int all = code(name);
    if (all || !device) return all;
    snprintf(one, sizeof one, "%s@%d", name, index_of(device));
    return code(one);
}

#define FAIL(device) do { int failed = fails(__func__, device); if (failed) return failed; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    FAIL(NULL);
    reported[0] = reported[1] = made = 0;
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) { FAIL(NULL); *count = line("none", 0) ? 0 : 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
    *device = (device_t)&devices[index];
    FAIL(*device);
    return 0;
}
int nvmlDeviceGetUUID(device_t device, char *uuid, unsigned size) {
    FAIL(device);
    snprintf(uuid, size, "GPU-stub-%d", index_of(device));
    return 0;
}
int nvmlDeviceGetName(device_t device, char *name, unsigned size) {
    FAIL(device);
    snprintf(name, size, "Stub");
    return 0;
}
int nvmlDeviceGetUtilizationRates(device_t device, utilization_t *used) {
    FAIL(device);
    used->gpu = 75;
    used->memory = 20;
    return 0;
}
int nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory) {
    FAIL(device);
    memory->total = 16ULL << 30;
    memory->used = 3ULL << 30;
    memory->free = memory->total - memory->used;
    return 0;
}
int nvmlDeviceGetPowerUsage(device_t device, unsigned *milliwatts) { FAIL(device); *milliwatts = 250000; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(device_t device, unsigned *milliwatts) {
    FAIL(device);
    *milliwatts = 700000;
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *millijoules) {
    struct timespec now;
    FAIL(device);
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = 250ULL * (now.tv_sec * 1000ULL + now.tv_nsec / 1000000);
    return 0;
}
int nvmlDeviceGetClockInfo(device_t device, unsigned which, unsigned *megahertz) {
    FAIL(device);
    *megahertz = which == 2 ? 2619 : 1980;
    return 0;
}
int nvmlDeviceGetTemperature(device_t device, unsigned sensor, unsigned *celsius) {
    FAIL(device);
    *celsius = 61;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, unsigned long long *reasons) {
    FAIL(device);
    *reasons = 0x1 | 0x4 | 0x40; /* idle, power cap, hardware thermal */
    return 0;
}
int nvmlDeviceGetTotalEccErrors(device_t device, unsigned kind, unsigned counter, unsigned long long *count) {
    FAIL(device);
    *count = kind == 1 ? 2 : 5;
    return 0;
}
int nvmlEventSetCreate(events_t *events) {
    FAIL(NULL);
    *events = (events_t)&owners[made++ % 2];
    return 0;
}
int nvmlDeviceRegisterEvents(device_t device, unsigned long long types, events_t events) {
    FAIL(device);
    *(device_t *)events = device;
    return types == 8 ? 0 : 2; /* nvmlEventTypeXidCriticalError alone */
}
int nvmlEventSetWait_v2(events_t events, event_t *event, unsigned milliseconds) {
    device_t device = *(device_t *)events;
    char name[8];
    FAIL(device);
    snprintf(name, sizeof name, "xid@%d", index_of(device));
    event->data = line(name, reported[index_of(device)]);
    if (!event->data) return 10; /* a timeout */
    reported[index_of(device)]++;
    return 0;
}
