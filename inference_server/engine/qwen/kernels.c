/* What a CPU computes for each token, in float32: matrices, norms, rotary positions, attention. `kernels.py` calls it.
 *
 * A row's result has the same bits whatever other rows are computed with it: every sum over a matrix's columns runs from
 * the first to the last, one after the other, in each of the tiles below, and every other sum is within one row.
 *
 * Weights lie in panels of PANEL rows, column by column, so that memory is read once and straight on, and so that one
 * vector holds different rows: no sum has to cross it.
 *
 * One thread calls at a time. All sizes are in elements; matrices are row by row without gaps unless a stride is given.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define PANEL 16
/* Vectors that one column of a panel fills. */
#define VECTORS (PANEL / LANES)
/* Columns computed at a time when there are many rows: what they need stays in the first cache. */
#define COLUMNS 64
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
/* The same where they lie at any address. */
typedef float floats_at __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t words_at __attribute__((vector_size(4 * LANES), aligned(2)));
typedef int8_t bytes_at __attribute__((vector_size(LANES), aligned(1)));

/* How weights are kept; `kernels.py` has the same numbers. */
enum storage { FLOAT32, BFLOAT16, INT8 };
static const size_t WIDTH[] = {4, 2, 1};

/* ---- Threads: helpers that look for work for a moment, and then sleep until there is some. ---- */

#define MOST_THREADS 256
#define SPIN_NANOSECONDS 200000

typedef void (*work)(const void *job, size_t from, size_t to, int thread);

static struct {
    work call;
    const void *job;
    size_t units, grain;
    atomic_size_t next;
} task;
static atomic_uint task_number, sleepers;
static atomic_int busy_helpers;
static atomic_bool stopping;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_t helpers[MOST_THREADS];
static int threads = 1;

INLINE void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void take_part(int thread) {
    for (;;) {
        size_t from = atomic_fetch_add(&task.next, task.grain);
        if (from >= task.units)
            return;
        size_t to = from + task.grain < task.units ? from + task.grain : task.units;
        task.call(task.job, from, to, thread);
    }
}

static void wait_for_another(unsigned seen) {
    int64_t until = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load(&task_number) != seen)
                return;
            pause_briefly();
        }
    } while (nanoseconds() < until);
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&sleepers, 1);
    while (atomic_load(&task_number) == seen)
        pthread_cond_wait(&wake, &lock);
    atomic_fetch_sub(&sleepers, 1);
    pthread_mutex_unlock(&lock);
}

static void *help(void *thread) {
    for (unsigned seen = 0;; seen++) {
        wait_for_another(seen);
        if (atomic_load(&stopping))
            return NULL;
        take_part((int)(intptr_t)thread);
        atomic_fetch_sub(&busy_helpers, 1);
    }
}

static void announce(void) {
    atomic_fetch_add(&task_number, 1);
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
    }
}

/* Calls work for all units, `grain` at a time, from all threads. Which thread takes which makes no difference to bits. */
static void run(work call, const void *job, size_t units, size_t grain) {
    task.call = call, task.job = job, task.units = units, task.grain = grain ? grain : 1;
    atomic_store(&task.next, 0);
    if (threads == 1 || units <= task.grain) {
        take_part(0);
        return;
    }
    atomic_store(&busy_helpers, threads - 1);
    announce();
    take_part(0);
    for (int i = 0; atomic_load(&busy_helpers); i++)
        i % 4096 ? pause_briefly() : (void)sched_yield();
}

static void stop_helpers(void) {
    atomic_store(&stopping, 1);
    announce();
    for (int i = 1; i < threads; i++)
        pthread_join(helpers[i], NULL);
    atomic_store(&stopping, 0);
    atomic_store(&task_number, 0);
    threads = 1;
}

/* How many threads compute, the caller's among them. Returns how many there are: fewer where the system gives no more. */
EXPORT int kernels_threads(int wanted) {
    stop_helpers();
    for (int i = 1; i < wanted && i < MOST_THREADS; i++, threads++)
        if (pthread_create(&helpers[i], NULL, help, (void *)(intptr_t)i))
            break;
    return threads;
}

/* Memory that is kept from call to call, and grows; what was in it is gone. */
struct memory {
    float *start;
    size_t size;
};

static float *at_least(struct memory *memory, size_t size) {
    if (memory->size < size) {
        free(memory->start);
        if (!(memory->start = aligned_alloc(64, (size * 4 + 63) / 64 * 64)))
            abort();
        memory->size = size;
    }
    return memory->start;
}

static struct memory own[MOST_THREADS];

/* ---- Matrices ---- */

/* Where a row of a panel is within one column. Two rows of bfloat16 share a word, so that a shift and a mask part them. */
INLINE size_t place(enum storage storage, size_t row) {
    if (storage != BFLOAT16)
        return row;
    size_t group = row / (2 * LANES), at = row % (2 * LANES);
    return group * 2 * LANES + at % LANES * 2 + at / LANES;
}

/* One column of a panel, as float32. */
INLINE void column(enum storage storage, const void *panel, size_t k, floats *w) {
    if (storage == FLOAT32)
        for (int v = 0; v < VECTORS; v++)
            w[v] = ((const floats_at *)panel)[k * VECTORS + v];
    else if (storage == BFLOAT16)
        for (int v = 0; v < VECTORS; v += 2) {
            words pair = ((const words_at *)panel)[(k * VECTORS + v) / 2];
            w[v] = (floats)(pair << 16);
            w[v + 1] = (floats)(pair & 0xffff0000u);
        }
    else
        for (int v = 0; v < VECTORS; v++)
            w[v] = __builtin_convertvector(__builtin_convertvector(((const bytes_at *)panel)[k * VECTORS + v], ints), floats);
}

struct linear {
    enum storage storage;
    const char *weight;
    const float *scale, *x;
    float *y;
    /* x (tokens, columns), weight (rows, columns), y (tokens, rows). */
    size_t tokens, columns, rows;
    /* x in tiles of at most TILE tokens, column by column; only when there are many. */
    const float *tiles;
};

/* `tokens` tokens times `panels` panels: sums of `columns` columns go to, or onto, `sums` (panels, tokens, PANEL).
 * Token t's number of column k is x[t * token_stride + k * column_stride]. */
INLINE void tile(enum storage storage, const char *weight, size_t panel_bytes, int panels, const float *x,
                 size_t token_stride, size_t column_stride, int tokens, size_t columns, floats *sums, int onto) {
    floats sum[8 * VECTORS];
    for (int i = 0; i < panels * tokens * VECTORS; i++)
        sum[i] = onto ? sums[i] : (floats){0};
    for (size_t k = 0; k < columns; k++)
        for (int p = 0; p < panels; p++) {
            floats w[VECTORS];
            column(storage, weight + p * panel_bytes, k, w);
            for (int t = 0; t < tokens; t++)
                for (int v = 0; v < VECTORS; v++)
                    sum[(p * tokens + t) * VECTORS + v] += w[v] * x[t * token_stride + k * column_stride];
        }
    for (int i = 0; i < panels * tokens * VECTORS; i++)
        sums[i] = sum[i];
}

/* Puts what was summed where it belongs, scaled. */
INLINE void deliver(const struct linear *job, size_t panel, size_t token, int tokens, const floats *sums) {
    for (int t = 0; t < tokens; t++) {
        floats y[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            y[v] = sums[t * VECTORS + v];
            if (job->storage == INT8)
                y[v] *= ((const floats_at *)(job->scale + panel * PANEL))[v];
        }
        size_t rows = job->rows - panel * PANEL;
        memcpy(job->y + (token + t) * job->rows + panel * PANEL, y, 4 * (rows < PANEL ? rows : PANEL));
    }
}

/* A few tokens: the weights are turned into float32 as they are read. Several panels at a time, so that enough sums are
 * under way to keep the processor busy. */
INLINE void few(enum storage storage, const struct linear *job, size_t from, size_t to, int tokens, int panels) {
    size_t panel_bytes = job->columns * PANEL * WIDTH[storage];
    floats sums[8 * VECTORS];
    size_t panel = from;
    for (; panel + panels <= to; panel += panels) {
        tile(storage, job->weight + panel * panel_bytes, panel_bytes, panels, job->x, job->columns, 1, tokens,
             job->columns, sums, 0);
        for (int p = 0; p < panels; p++)
            deliver(job, panel + p, 0, tokens, sums + p * tokens * VECTORS);
    }
    for (; panel < to; panel++) {
        tile(storage, job->weight + panel * panel_bytes, panel_bytes, 1, job->x, job->columns, 1, tokens, job->columns,
             sums, 0);
        deliver(job, panel, 0, tokens, sums);
    }
}

#define FEW 6
#define TILE 6

/* How many tokens the next tile has: all are nearly the same, because one or two alone take as long as four. */
INLINE size_t next_tile(size_t left) {
    size_t count = (left + TILE - 1) / TILE;
    return (left + count - 1) / count;
}

INLINE void tile_of(size_t tokens, const float *weight, const float *x, size_t columns, floats *sums, int onto) {
    const char *panel = (const char *)weight;
    switch (tokens) {
    case 1: tile(FLOAT32, panel, 0, 1, x, 1, 1, 1, columns, sums, onto); break;
    case 2: tile(FLOAT32, panel, 0, 1, x, 1, 2, 2, columns, sums, onto); break;
    case 3: tile(FLOAT32, panel, 0, 1, x, 1, 3, 3, columns, sums, onto); break;
    case 4: tile(FLOAT32, panel, 0, 1, x, 1, 4, 4, columns, sums, onto); break;
    case 5: tile(FLOAT32, panel, 0, 1, x, 1, 5, 5, columns, sums, onto); break;
    default: tile(FLOAT32, panel, 0, 1, x, 1, TILE, TILE, columns, sums, onto);
    }
}

/* Many tokens: some columns of a panel become float32 once, for all of them. */
INLINE void many(enum storage storage, const struct linear *job, size_t from, size_t to, int thread) {
    float *copy = at_least(&own[thread], (COLUMNS + job->tokens) * PANEL);
    floats *sums = (floats *)(copy + COLUMNS * PANEL);
    for (size_t panel = from; panel < to; panel++) {
        const char *packed = job->weight + panel * job->columns * PANEL * WIDTH[storage];
        for (size_t k = 0; k < job->columns; k += COLUMNS) {
            size_t columns = job->columns - k < COLUMNS ? job->columns - k : COLUMNS;
            const float *weight = storage == FLOAT32 ? (const float *)packed + k * PANEL : copy;
            if (storage != FLOAT32)
                for (size_t i = 0; i < columns; i++)
                    column(storage, packed, k + i, (floats *)copy + i * VECTORS);
            for (size_t token = 0, tokens; token < job->tokens; token += tokens) {
                tokens = next_tile(job->tokens - token);
                tile_of(tokens, weight, job->tiles + token * job->columns + k * tokens, columns,
                        sums + token * VECTORS, k > 0);
            }
        }
        for (size_t token = 0; token < job->tokens; token++)
            deliver(job, panel, token, 1, sums + token * VECTORS);
    }
}

INLINE void linear_as(enum storage storage, const struct linear *job, size_t from, size_t to, int thread) {
    switch (job->tokens) {
    case 1: few(storage, job, from, to, 1, 4); break;
    case 2: few(storage, job, from, to, 2, 2); break;
    case 3: few(storage, job, from, to, 3, 1); break;
    case 4: few(storage, job, from, to, 4, 1); break;
    case 5: few(storage, job, from, to, 5, 1); break;
    case 6: few(storage, job, from, to, 6, 1); break;
    default: many(storage, job, from, to, thread);
    }
}

static void linear_part(const void *job, size_t from, size_t to, int thread) {
    const struct linear *linear = job;
    switch (linear->storage) {
    case FLOAT32: linear_as(FLOAT32, linear, from, to, thread); break;
    case BFLOAT16: linear_as(BFLOAT16, linear, from, to, thread); break;
    case INT8: linear_as(INT8, linear, from, to, thread); break;
    }
}

struct tiling {
    const float *x;
    float *tiles;
    size_t tokens, columns;
};

/* Units are columns. */
static void tiling_part(const void *job, size_t from, size_t to, int thread) {
    const struct tiling *tiling = job;
    (void)thread;
    for (size_t token = 0, tokens; token < tiling->tokens; token += tokens) {
        tokens = next_tile(tiling->tokens - token);
        float *tiles = tiling->tiles + token * tiling->columns;
        for (size_t t = 0; t < tokens; t++)
            for (size_t k = from; k < to; k++)
                tiles[k * tokens + t] = tiling->x[(token + t) * tiling->columns + k];
    }
}

/* y = x · weightᵀ. `scale`: one number per row, for INT8 only. */
EXPORT void kernels_linear(int storage, const void *weight, const float *scale, const float *x, float *y, size_t tokens,
                           size_t columns, size_t rows) {
    size_t panels = (rows + PANEL - 1) / PANEL;
    struct linear job = {storage, weight, scale, x, y, tokens, columns, rows, NULL};
    if (tokens > FEW) {
        static struct memory shared;
        struct tiling tiling = {x, at_least(&shared, tokens * columns), tokens, columns};
        run(tiling_part, &tiling, columns, COLUMNS);
        job.tiles = tiling.tiles;
    }
    /* In fours, for `few`. */
    run(linear_part, &job, panels, (panels / (threads * 8) + 3) / 4 * 4);
}

INLINE float bfloat16(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &word, 4);
    return number;
}

struct put {
    enum storage storage;
    char *weight;
    float *scale;
    const float *numbers;
    const uint16_t *halves;
    size_t first, rows, columns;
};

INLINE float number(const struct put *put, size_t row, size_t k) {
    size_t at = row * put->columns + k;
    return put->halves ? bfloat16(put->halves[at]) : put->numbers[at];
}

/* Units are panels, counted from that of the first row. */
static void put_part(const void *job, size_t from, size_t to, int thread) {
    const struct put *put = job;
    (void)thread;
    /* Rows of the first panel that came before. */
    size_t before = put->first % PANEL, end = to * PANEL - before;
    for (size_t row = from ? from * PANEL - before : 0; row < end && row < put->rows; row++) {
        size_t target = put->first + row;
        size_t base = target / PANEL * put->columns * PANEL + place(put->storage, target % PANEL);
        if (put->storage == FLOAT32) {
            for (size_t k = 0; k < put->columns; k++)
                ((float *)put->weight)[base + k * PANEL] = number(put, row, k);
        } else if (put->storage == BFLOAT16) {
            for (size_t k = 0; k < put->columns; k++) {
                float exact = number(put, row, k);
                uint32_t word;
                memcpy(&word, &exact, 4);
                ((uint16_t *)put->weight)[base + k * PANEL] = word >> 16;
            }
        } else {
            float most = 1e-20f;
            int finite = 1;
            for (size_t k = 0; k < put->columns; k++) {
                float size = fabsf(number(put, row, k));
                finite &= size < INFINITY;
                most = fmaxf(most, size);
            }
            float scale = most / 127;
            /* So that what is wrong with the weight is seen in the result. */
            put->scale[target] = finite ? scale : NAN;
            for (size_t k = 0; k < put->columns; k++)
                ((int8_t *)put->weight)[base + k * PANEL] = finite ? (int8_t)rintf(number(put, row, k) / scale) : 0;
        }
    }
}

/* Takes rows of a weight, beginning with `first`, from float32 `numbers` or from bfloat16 `halves`; the other is NULL.
 * BFLOAT16 must be given numbers that are exact in it. */
EXPORT void kernels_put(int storage, void *weight, float *scale, const float *numbers, const uint16_t *halves,
                        size_t first, size_t rows, size_t columns) {
    struct put put = {storage, weight, scale, numbers, halves, first, rows, columns};
    run(put_part, &put, (first + rows + PANEL - 1) / PANEL - first / PANEL, 1);
}

struct lookup {
    enum storage storage;
    const void *weight;
    const float *scale;
    const int64_t *index;
    float *y;
    size_t columns;
};

static void lookup_part(const void *job, size_t from, size_t to, int thread) {
    const struct lookup *lookup = job;
    (void)thread;
    for (size_t i = from; i < to; i++) {
        size_t row = (size_t)lookup->index[i];
        size_t base = row / PANEL * lookup->columns * PANEL + place(lookup->storage, row % PANEL);
        float *y = lookup->y + i * lookup->columns;
        for (size_t k = 0; k < lookup->columns; k++) {
            size_t at = base + k * PANEL;
            y[k] = lookup->storage == FLOAT32    ? ((const float *)lookup->weight)[at]
                   : lookup->storage == BFLOAT16 ? bfloat16(((const uint16_t *)lookup->weight)[at])
                                                 : ((const int8_t *)lookup->weight)[at] * lookup->scale[row];
        }
    }
}

/* The rows of a weight that `index` names, as float32: y (count, columns). */
EXPORT void kernels_rows(int storage, const void *weight, const float *scale, const int64_t *index, float *y,
                         size_t count, size_t columns) {
    struct lookup lookup = {storage, weight, scale, index, y, columns};
    run(lookup_part, &lookup, count, 1);
}

/* ---- The rest of a layer ---- */

typedef float quad __attribute__((vector_size(16)));

INLINE float total(floats x) {
#if LANES == 8
    quad y = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
    quad y = x;
#endif
    y += __builtin_shufflevector(y, y, 2, 3, 0, 1);
    y += __builtin_shufflevector(y, y, 1, 0, 3, 2);
    return y[0];
}

INLINE float dot(const float *a, const float *b, size_t count) {
    floats sum[4] = {{0}, {0}, {0}, {0}};
    size_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            sum[j] += *(const floats_at *)(a + i + j * LANES) * *(const floats_at *)(b + i + j * LANES);
    float rest = 0;
    for (; i < count; i++)
        rest += a[i] * b[i];
    return total((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

INLINE floats choose(ints condition, floats yes, floats no) {
    return (floats)((condition & (ints)yes) | (~condition & (ints)no));
}

/* e to the x, to the last bit or two, for x from -87 to 88 and as of these beyond them; not a number of none. Cephes'
 * polynomial. */
INLINE floats exponential(floats given) {
    floats x = given, least = (floats){0} - 87.0f, most = (floats){0} + 88.0f;
    x = choose(x < least, least, choose(x > most, most, x));
    floats shifted = x * 1.44269504f + 12582912.0f;
    floats power = shifted - 12582912.0f;
    floats r = x - power * 0.693359375f + power * 2.12194440e-4f;
    floats y = (floats){0} + 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return choose(given == given, (floats)((words)y + (((words)shifted - 0x4b400000u) << 23)), given);
}

/* What a row is multiplied by, so that the mean of its squares is 1. */
INLINE float norm_scale(const float *x, size_t size, float epsilon) { return 1 / sqrtf(dot(x, x, size) / size + epsilon); }

struct norm {
    const float *x, *weight;
    float *y, epsilon;
    size_t size;
};

static void norm_part(const void *job, size_t from, size_t to, int thread) {
    const struct norm *norm = job;
    (void)thread;
    for (size_t row = from; row < to; row++) {
        const float *x = norm->x + row * norm->size;
        float *y = norm->y + row * norm->size;
        float scale = norm_scale(x, norm->size, norm->epsilon);
        for (size_t i = 0; i < norm->size; i++)
            y[i] = norm->weight[i] * (x[i] * scale);
    }
}

/* Root mean square norm. x, y (rows, size), weight (size). */
EXPORT void kernels_norm(const float *x, const float *weight, float epsilon, float *y, size_t rows, size_t size) {
    struct norm norm = {x, weight, y, epsilon, size};
    run(norm_part, &norm, rows, 8);
}

struct gate {
    const float *x;
    float *y;
    size_t inner;
};

static void gate_part(const void *job, size_t from, size_t to, int thread) {
    const struct gate *gate = job;
    (void)thread;
    size_t inner = gate->inner;
    for (size_t row = from; row < to; row++) {
        const float *x = gate->x + row * 2 * inner;
        float *y = gate->y + row * inner;
        for (size_t i = 0; i < inner; i += LANES) {
            size_t count = inner - i < LANES ? inner - i : LANES;
            floats one = {0}, other = {0};
            memcpy(&one, x + i, 4 * count);
            memcpy(&other, x + inner + i, 4 * count);
            floats result = one / (1.0f + exponential(-one)) * other;
            memcpy(y + i, &result, 4 * count);
        }
    }
}

/* silu(gate) · up. x (rows, gate then up), y (rows, inner). */
EXPORT void kernels_gate(const float *x, float *y, size_t rows, size_t inner) {
    struct gate gate = {x, y, inner};
    run(gate_part, &gate, rows, 4);
}

struct attention {
    /* (tokens, heads + 2 · key_value_heads, head): queries, keys, values. */
    float *qkv;
    /* (slots, keys then values, slot_tokens, head) */
    float *cache;
    /* Of each token: the slot it belongs to, and where in it. */
    const int64_t *slots, *places;
    const float *norm, *cosines, *sines;
    float *y, epsilon;
    size_t heads, key_value_heads, head, slot_tokens;
};

INLINE float *cached(const struct attention *job, size_t token, size_t head) {
    size_t index = (size_t)job->slots[token] * 2 * job->key_value_heads + head;
    return job->cache + index * job->slot_tokens * job->head;
}

/* Units are tokens. */
static void store_part(const void *job, size_t from, size_t to, int thread) {
    const struct attention *a = job;
    (void)thread;
    size_t size = a->head, half = size / 2, turned = a->heads + a->key_value_heads;
    for (size_t token = from; token < to; token++) {
        size_t at = (size_t)a->places[token];
        const float *cosine = a->cosines + at * size, *sine = a->sines + at * size;
        float *qkv = a->qkv + token * (turned + a->key_value_heads) * size;
        for (size_t head = 0; head < turned; head++) {
            float *x = qkv + head * size;
            const float *weight = a->norm + head * size;
            float *y = head < a->heads ? x : cached(a, token, head - a->heads) + at * size;
            float scale = norm_scale(x, size, a->epsilon);
            for (size_t i = 0; i < half; i++) {
                float one = weight[i] * (x[i] * scale), other = weight[half + i] * (x[half + i] * scale);
                y[i] = one * cosine[i] + other * sine[i];
                y[half + i] = other * cosine[half + i] + one * sine[half + i];
            }
        }
        for (size_t head = 0; head < a->key_value_heads; head++)
            memcpy(cached(a, token, a->key_value_heads + head) + at * size, qkv + (turned + head) * size, 4 * size);
    }
}

/* How many keys are looked at at a time: what they are made of stays in the first cache. */
#define KEYS 32

/* scores (queries, count) */
INLINE void score(const float *query, const float *keys, size_t size, int queries, float scale, float *scores,
                  size_t count) {
    for (size_t key = 0; key < count; key++) {
        const float *k = keys + key * size;
        floats sum[4] = {{0}, {0}, {0}, {0}};
        float rest[4] = {0, 0, 0, 0};
        size_t i = 0;
        for (; i + LANES <= size; i += LANES)
            for (int q = 0; q < queries; q++)
                sum[q] += *(const floats_at *)(query + q * size + i) * *(const floats_at *)(k + i);
        for (; i < size; i++)
            for (int q = 0; q < queries; q++)
                rest[q] += query[q * size + i] * k[i];
        for (int q = 0; q < queries; q++)
            scores[q * count + key] = (total(sum[q]) + rest[q]) * scale;
    }
}

/* In place: scores become shares, once they are divided by what is returned. */
INLINE float weigh(float *scores, size_t count) {
    floats highest = (floats){0} + scores[0], sum = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        floats x = *(const floats_at *)(scores + i);
        highest = choose(x > highest, x, highest);
    }
    float most = highest[0];
    for (int j = 1; j < LANES; j++)
        most = fmaxf(most, highest[j]);
    for (; i < count; i++)
        most = fmaxf(most, scores[i]);
    for (i = 0; i + LANES <= count; i += LANES) {
        floats x = exponential(*(const floats_at *)(scores + i) - most);
        *(floats_at *)(scores + i) = x;
        sum += x;
    }
    if (i < count) {
        floats x = {0}, last = {0};
        memcpy(&x, scores + i, 4 * (count - i));
        x = exponential(x - most);
        memcpy(scores + i, &x, 4 * (count - i));
        memcpy(&last, &x, 4 * (count - i));
        sum += last;
    }
    return total(sum);
}

/* Adds the values from `from` to before `to`, times their scores, onto y (queries, size). */
INLINE void gather(const float *scores, size_t room, const float *values, size_t size, int queries, float *y,
                   size_t from, size_t to) {
    size_t at = 0;
    for (; at + 2 * LANES <= size; at += 2 * LANES) {
        floats sum[4][2];
        for (int q = 0; q < queries; q++)
            for (int j = 0; j < 2; j++)
                sum[q][j] = *(const floats_at *)(y + q * size + at + j * LANES);
        for (size_t key = from; key < to; key++)
            for (int j = 0; j < 2; j++) {
                floats value = *(const floats_at *)(values + key * size + at + j * LANES);
                for (int q = 0; q < queries; q++)
                    sum[q][j] += scores[q * room + key] * value;
            }
        for (int q = 0; q < queries; q++)
            for (int j = 0; j < 2; j++)
                *(floats_at *)(y + q * size + at + j * LANES) = sum[q][j];
    }
    for (; at < size; at++)
        for (size_t key = from; key < to; key++)
            for (int q = 0; q < queries; q++)
                y[q * size + at] += scores[q * room + key] * values[key * size + at];
}

/* `queries` queries that share keys and values, `count` of them. */
INLINE void attend(const float *query, const float *keys, const float *values, size_t size, int queries, size_t count,
                   float *scores, float *y) {
    float scale = 1 / sqrtf((float)size);
    score(query, keys, size, queries, scale, scores, count);
    float sums[4];
    for (int q = 0; q < queries; q++)
        sums[q] = weigh(scores + q * count, count);
    memset(y, 0, 4 * queries * size);
    for (size_t from = 0; from < count; from += KEYS)
        gather(scores, count, values, size, queries, y, from, count - from < KEYS ? count : from + KEYS);
    for (int q = 0; q < queries; q++)
        for (size_t i = 0; i < size; i++)
            y[q * size + i] /= sums[q];
}

/* Units are a key's and value's head of a token: the queries that share it are computed together, four at most. */
static void attend_part(const void *job, size_t from, size_t to, int thread) {
    const struct attention *a = job;
    size_t size = a->head, group = a->heads / a->key_value_heads;
    float *scores = at_least(&own[thread], 4 * a->slot_tokens);
    for (size_t unit = from; unit < to; unit++) {
        size_t token = unit / a->key_value_heads, shared = unit % a->key_value_heads;
        size_t count = (size_t)a->places[token] + 1;
        const float *keys = cached(a, token, shared), *values = cached(a, token, a->key_value_heads + shared);
        for (size_t head = shared * group, queries; head < (shared + 1) * group; head += queries) {
            size_t left = (shared + 1) * group - head;
            queries = left < 4 ? left : 4;
            const float *query = a->qkv + (token * (a->heads + 2 * a->key_value_heads) + head) * size;
            float *y = a->y + (token * a->heads + head) * size;
            switch (queries) {
            case 1: attend(query, keys, values, size, 1, count, scores, y); break;
            case 2: attend(query, keys, values, size, 2, count, scores, y); break;
            case 3: attend(query, keys, values, size, 3, count, scores, y); break;
            default: attend(query, keys, values, size, 4, count, scores, y);
            }
        }
    }
}

/* Norms and turns queries and keys, puts keys and values into the cache, and attends: each token to all of its slot up to
 * itself. `norm` (heads + key_value_heads, head), `cosines` and `sines` (places, head), y (tokens, heads, head). */
EXPORT void kernels_attend(float *qkv, float *cache, const int64_t *slots, const int64_t *places, const float *norm,
                           const float *cosines, const float *sines, float *y, float epsilon, size_t tokens,
                           size_t heads, size_t key_value_heads, size_t head, size_t slot_tokens) {
    struct attention job = {qkv, cache, slots, places, norm, cosines, sines, y, epsilon, heads, key_value_heads, head, slot_tokens};
    run(store_part, &job, tokens, 4);
    run(attend_part, &job, tokens * key_value_heads, 1);
}
