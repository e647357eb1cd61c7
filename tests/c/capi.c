// The C interface from C: bits against plain loops, errors, threads, the caller's own threads.

#include <fenv.h>
#include <math.h>
#include <pointwise.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;

static void check(int holds, const char *what, int line) {
    if (holds) {
        passed++;
    } else {
        failed++;
        fprintf(stderr, "tests/c/capi.c:%d: %s; last error: %s\n", line, what, pw_last_error());
    }
}
#define CHECK(what) check(what, #what, __LINE__)

// A call that fails with a status and words that begin with these.
#define FAILS(status, words, call) CHECK((call) == (status) && !strncmp(pw_last_error(), words, strlen(words)))

// What programs are compiled with stays as it is.
#if UINTPTR_MAX == UINT64_MAX
_Static_assert(offsetof(pw_conv_desc, stride_w) == 40 && offsetof(pw_conv_desc, isa) == 60, "");
_Static_assert(offsetof(pw_nhwc_f32, c) == 32 && sizeof(pw_nhwc_f32) == 64, "");
_Static_assert(offsetof(pw_executor, run) == 16 && offsetof(pw_executor, work_per_thread) == 32, "");
#endif
_Static_assert(PW_OK == 0 && PW_INVALID_ARGUMENT == 1 && PW_UNAVAILABLE == 2 && PW_OUT_OF_RESOURCES == 3, "");
_Static_assert(PW_INTERNAL == 4 && PW_IDENTITY == 0 && PW_RELU == 1 && PW_CLAMP == 2, "");
_Static_assert(PW_SIGMOID == 3 && PW_TANH == 4 && PW_ISA_AUTO == 0 && PW_ISA_SCALAR == 1, "");
_Static_assert(PW_ISA_AVX2 == 2 && PW_ISA_AVX512 == 3 && PW_ISA_NEON == 4, "");
_Static_assert(sizeof(pw_status) == 4 && sizeof(pw_isa) == 4, "");

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) abort();
    return memory;
}

static float *random_values(size_t count) {
    static uint32_t state = 1;
    float *values = allocate(count, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525 + 1013904223;
        values[i] = (float)(state >> 8) / (1 << 23) - 1;
    }
    return values;
}

// --- The caller's own threads ---

struct team {
    size_t others;   // threads besides the calling one
    size_t left_out; // calls that are forgotten
    atomic_size_t runs;
};

struct job {
    size_t tasks;
    pw_task task;
    void *task_context;
    atomic_size_t next;
};

static void *work_off(void *argument) {
    struct job *job = argument;
    for (size_t i; (i = atomic_fetch_add(&job->next, 1)) < job->tasks;) job->task(job->task_context, i);
    return NULL;
}

static void run_on_team(void *context, size_t tasks, pw_task task, void *task_context) {
    struct team *team = context;
    struct job job = {.tasks = tasks - team->left_out, .task = task, .task_context = task_context};
    pthread_t threads[8];
    for (size_t i = 0; i < team->others; i++)
        if (pthread_create(&threads[i], NULL, work_off, &job)) abort();
    work_off(&job);
    for (size_t i = 0; i < team->others; i++) pthread_join(threads[i], NULL);
    atomic_fetch_add(&team->runs, 1);
}

static pw_pool *pool_of(struct team *team) {
    pw_executor executor = {.struct_size = sizeof executor, .threads = team->others + 1, .run = run_on_team};
    executor.context = team;
    executor.work_per_thread = 1000;
    pw_pool *pool;
    CHECK(pw_pool_create_with(&executor, &pool) == PW_OK);
    return pool;
}

// --- Bits ---

// Every ISA and pool against the definition: strides, groups, a residual, a clamp, and gaps that stay as they are.
static void test_bits(void) {
    enum { N = 2, H = 9, W = 31, K = 40, F = 56, GROUPS = 2, SH = 2, SW = 3, OH = 5, OW = 11, GAP = 3, ROW_GAP = 7 };
    enum { PIXEL = F + GAP, ROW = OW * PIXEL + ROW_GAP, SIZE = N * OH * ROW };
    float *weights = random_values(F * K / GROUPS), *bias = random_values(F);
    float *x = random_values(N * H * W * K), *residual = random_values(N * OH * OW * F);
    float *expected = allocate(SIZE, sizeof *expected), *y = allocate(SIZE, sizeof *y);
    for (size_t i = 0; i < SIZE; i++) expected[i] = -7;
    for (size_t n = 0; n < N; n++)
        for (size_t i = 0; i < OH; i++)
            for (size_t j = 0; j < OW; j++)
                for (size_t f = 0; f < F; f++) {
                    const float *pixel = x + ((n * H + i * SH) * W + j * SW) * K + f / (F / GROUPS) * (K / GROUPS);
                    float sum = bias[f];
                    for (size_t k = 0; k < K / GROUPS; k++) sum = fmaf(pixel[k], weights[f * (K / GROUPS) + k], sum);
                    sum += residual[((n * OH + i) * OW + j) * F + f];
                    expected[(n * OH + i) * ROW + j * PIXEL + f] = sum < -1 ? -1 : sum > 2 ? 2 : sum;
                }

    struct team team = {.others = 2};
    pw_pool *pools[] = {NULL, NULL, pool_of(&team)};
    CHECK(pw_pool_create(2, &pools[1]) == PW_OK);
    pw_isa isas[8], detected;
    size_t isa_count;
    CHECK(pw_isa_available(isas, 8, &isa_count) == PW_OK && isa_count >= 1 && isa_count <= 8);
    CHECK(isas[0] == PW_ISA_SCALAR && pw_isa_detect(&detected) == PW_OK && detected != PW_ISA_AUTO);
    for (size_t i = 0; i < isa_count; i++) {
        pw_conv_desc desc = {.struct_size = sizeof desc, .in_channels = K, .out_channels = F, .groups = GROUPS};
        desc.stride_h = SH, desc.stride_w = SW;
        desc.activation = PW_CLAMP, desc.param_a = -1, desc.param_b = 2;
        desc.isa = isas[i];
        pw_conv *conv;
        CHECK(pw_conv_f32_create(&desc, weights, bias, &conv) == PW_OK);
        size_t shape[4];
        CHECK(pw_conv_output_shape(conv, (size_t[]){N, H, W, K}, shape) == PW_OK);
        CHECK(!memcmp(shape, (size_t[]){N, OH, OW, F}, sizeof shape));
        pw_nhwc_f32 input = {.data = x, .n = N, .h = H, .w = W, .c = K};
        pw_nhwc_f32 added = {.data = residual, .n = N, .h = OH, .w = OW, .c = F};
        pw_nhwc_f32 output = {.data = y, .n = N, .h = OH, .w = OW, .c = F, .row_stride = ROW, .pixel_stride = PIXEL};
        for (size_t p = 0; p < sizeof pools / sizeof *pools; p++) {
            for (size_t v = 0; v < SIZE; v++) y[v] = -7;
            // How the caller, and threads that it starts, round changes nothing, and stays.
            fesetround(FE_UPWARD);
            CHECK(pw_conv_f32_run(conv, &input, &added, &output, pools[p]) == PW_OK);
            CHECK(fegetround() == FE_UPWARD && !fesetround(FE_TONEAREST));
            CHECK(!memcmp(y, expected, SIZE * sizeof *y));
        }
        printf("%s: the bits of the definition\n", pw_isa_name(isas[i]));
        pw_conv_destroy(conv);
    }
    CHECK(team.runs == isa_count);
    for (size_t p = 0; p < sizeof pools / sizeof *pools; p++) pw_pool_destroy(pools[p]);
    free(weights), free(bias), free(x), free(residual), free(expected), free(y);
}

// --- Errors ---

static void test_errors(void) {
    float weights[6] = {0}, x[3] = {0}, y[4] = {5, 5};
    pw_conv_desc desc = {.struct_size = sizeof desc, .in_channels = 3, .out_channels = 2}, wrong;
    pw_conv *conv = (pw_conv *)&desc;
    FAILS(PW_INVALID_ARGUMENT, "desc: expected a pointer, got null", pw_conv_f32_create(NULL, weights, NULL, &conv));
    CHECK(!conv);
    wrong = desc, wrong.struct_size = 0;
    FAILS(PW_INVALID_ARGUMENT, "desc: expected struct_size from", pw_conv_f32_create(&wrong, weights, NULL, &conv));
    wrong = desc, wrong.activation = 99;
    FAILS(PW_INVALID_ARGUMENT, "activation: expected 0 to", pw_conv_f32_create(&wrong, weights, NULL, &conv));
    wrong = desc, wrong.isa = -1;
    FAILS(PW_INVALID_ARGUMENT, "isa: expected 0 to", pw_conv_f32_create(&wrong, weights, NULL, &conv));
    FAILS(PW_INVALID_ARGUMENT, "conv: expected a pointer", pw_conv_f32_create(&desc, weights, NULL, NULL));
    CHECK(pw_conv_f32_create(&desc, weights, NULL, &conv) == PW_OK && conv);

    // A program of a later version: its new fields must be 0 here.
    struct { pw_conv_desc known; uint64_t later; } new_desc = {desc, 0};
    pw_conv *other;
    new_desc.known.struct_size = sizeof new_desc;
    CHECK(pw_conv_f32_create(&new_desc.known, weights, NULL, &other) == PW_OK);
    pw_conv_destroy(other);
    new_desc.later = 1;
    FAILS(PW_INVALID_ARGUMENT, "desc: expected zeros behind", pw_conv_f32_create(&new_desc.known, weights, NULL, &other));

    pw_nhwc_f32 input = {.data = x, .n = 1, .h = 1, .w = 1, .c = 3}, output = {.data = y, .n = 1, .h = 1, .w = 1, .c = 2};
    pw_nhwc_f32 bad = output;
    bad.data = (float *)((char *)y + 1);
    FAILS(PW_INVALID_ARGUMENT, "output: expected an address", pw_conv_f32_run(conv, &input, NULL, &bad, NULL));
    bad.data = x + 1;
    FAILS(PW_INVALID_ARGUMENT, "output: expected memory apart", pw_conv_f32_run(conv, &input, NULL, &bad, NULL));
    bad = output, bad.w = 2;
    FAILS(PW_INVALID_ARGUMENT, "output: expected shape", pw_conv_f32_run(conv, &input, NULL, &bad, NULL));
    bad = output, bad.w = 2, bad.pixel_stride = 1;
    FAILS(PW_INVALID_ARGUMENT, "output: pixels overlap", pw_conv_f32_run(conv, &input, NULL, &bad, NULL));
    bad = output, bad.n = SIZE_MAX;
    FAILS(PW_INVALID_ARGUMENT, "output: shape", pw_conv_f32_run(conv, &input, NULL, &bad, NULL));
    CHECK(y[0] == 5 && y[1] == 5);

    // In place, and two heads side by side.
    float plain[2], both[4];
    pw_nhwc_f32 apart = output, left = output, right = output;
    apart.data = plain, left.data = both, right.data = both + 2;
    CHECK(pw_conv_f32_run(conv, &input, NULL, &apart, NULL) == PW_OK);
    CHECK(pw_conv_f32_run(conv, &input, &output, &output, NULL) == PW_OK);
    CHECK(y[0] == 5 + plain[0] && y[1] == 5 + plain[1]);
    pw_head heads[2] = {{.struct_size = sizeof *heads, .conv = conv, .output = &left},
                        {.struct_size = sizeof *heads, .conv = conv, .output = &right}};
    CHECK(pw_heads_f32_run(&input, heads, 2, NULL) == PW_OK);
    CHECK(!memcmp(both, plain, sizeof plain) && !memcmp(both + 2, plain, sizeof plain));
    heads[1].output = &left;
    FAILS(PW_INVALID_ARGUMENT, "head 0: output: expected memory apart", pw_heads_f32_run(&input, heads, 2, NULL));

    char text[16];
    size_t length = 0;
    CHECK(pw_conv_explain(conv, (size_t[]){1, 8, 8, 3}, NULL, text, sizeof text, &length) == PW_OK);
    CHECK(!strncmp(text, "ISA     ", 8) && strlen(text) == 15 && length > 100);
    pw_conv_destroy(conv);
    pw_conv_destroy(NULL);
    pw_pool_destroy(NULL);

    CHECK(!strcmp(pw_status_name(PW_UNAVAILABLE), "PW_UNAVAILABLE") && !strcmp(pw_status_name(77), "unknown"));
    CHECK(!strcmp(pw_isa_name(PW_ISA_AVX512), "avx512") && !strcmp(pw_isa_name(-5), "unknown"));
    CHECK(pw_version() == PW_VERSION);
}

// --- Packed bytes ---

// What was packed is loaded where it is, and copied from anywhere, on every ISA; what is damaged is not.
static void test_packed(void) {
    enum { K = 20, F = 40, PIXELS = 30 };
    float *weights = random_values(K * F), *bias = random_values(F), *x = random_values(PIXELS * K);
    float *expected = allocate(PIXELS * F, sizeof *expected), *y = allocate(PIXELS * F, sizeof *y);
    pw_nhwc_f32 input = {.data = x, .n = 1, .h = 1, .w = PIXELS, .c = K};
    pw_nhwc_f32 output = {.data = expected, .n = 1, .h = 1, .w = PIXELS, .c = F};
    pw_conv_desc desc = {.struct_size = sizeof desc, .in_channels = K, .out_channels = F, .activation = PW_TANH};
    pw_conv *conv;
    CHECK(pw_conv_f32_create(&desc, weights, bias, &conv) == PW_OK);
    CHECK(pw_conv_f32_run(conv, &input, NULL, &output, NULL) == PW_OK);
    size_t size = 0;
    CHECK(pw_conv_packed_size(conv, &size) == PW_OK && size == 128 + 3 * (1 + K) * 64);
    char *bytes = aligned_alloc(64, size), *copy = allocate(1, size + 1);
    if (!bytes) abort();
    FAILS(PW_INVALID_ARGUMENT, "size: expected", pw_conv_pack(conv, bytes, size - 1));
    CHECK(pw_conv_pack(conv, bytes, size) == PW_OK);
    pw_conv_destroy(conv);
    memcpy(copy + 1, bytes, size);

    pw_isa isas[8];
    size_t isa_count;
    CHECK(pw_isa_available(isas, 8, &isa_count) == PW_OK);
    output.data = y;
    for (size_t i = 0; i < 2 * isa_count; i++) {
        const char *from = i % 2 ? bytes : copy + 1;
        uint32_t flags = i % 2 ? PW_PACKED_HEADER_ONLY : PW_PACKED_COPY;
        CHECK(pw_conv_f32_create_packed(from, size, flags, isas[i / 2], &conv) == PW_OK);
        CHECK(pw_conv_f32_run(conv, &input, NULL, &output, NULL) == PW_OK);
        CHECK(!memcmp(y, expected, PIXELS * F * sizeof *y));
        pw_conv_destroy(conv);
    }
    FAILS(PW_INVALID_ARGUMENT, "packed: expected an address", pw_conv_f32_create_packed(copy + 1, size, 0, 0, &conv));
    FAILS(PW_INVALID_ARGUMENT, "packed: expected length", pw_conv_f32_create_packed(bytes, size - 64, 0, 0, &conv));
    bytes[size - 1] ^= 1;
    FAILS(PW_INVALID_ARGUMENT, "packed: expected checksum", pw_conv_f32_create_packed(bytes, size, 0, 0, &conv));
    CHECK(!conv);
    free(weights), free(bias), free(x), free(expected), free(y), free(bytes), free(copy);
}

// An executor that calls nothing is told.
static void test_lazy_executor(void) {
    enum { PIXELS = 1000, K = 16, F = 16 };
    float *weights = random_values(F * K), *x = random_values(PIXELS * K), *y = random_values(PIXELS * F);
    struct team lazy = {.others = 1, .left_out = 2};
    pw_pool *pool = pool_of(&lazy);
    pw_conv_desc desc = {.struct_size = sizeof desc, .in_channels = K, .out_channels = F};
    pw_conv *conv;
    CHECK(pw_conv_f32_create(&desc, weights, NULL, &conv) == PW_OK);
    pw_nhwc_f32 input = {.data = x, .n = 1, .h = 1, .w = PIXELS, .c = K};
    pw_nhwc_f32 output = {.data = y, .n = 1, .h = 1, .w = PIXELS, .c = F};
    FAILS(PW_INVALID_ARGUMENT, "executor: expected", pw_conv_f32_run(conv, &input, NULL, &output, pool));
    CHECK(lazy.runs == 1);
    pw_executor executor = {.struct_size = sizeof executor, .threads = 2};
    pw_pool *none;
    FAILS(PW_INVALID_ARGUMENT, "executor: expected a function", pw_pool_create_with(&executor, &none));
    executor.run = run_on_team, executor.threads = 0;
    FAILS(PW_INVALID_ARGUMENT, "executor: expected threads", pw_pool_create_with(&executor, &none));
    CHECK(!none);
    pw_conv_destroy(conv);
    pw_pool_destroy(pool);
    free(weights), free(x), free(y);
}

// --- Threads ---

static pthread_key_t at_end;
static atomic_int told_at_end;

// Runs after the thread's own error is gone: a call still has its status, and the words are empty.
static void fail_at_end(void *argument) {
    (void)argument;
    pw_pool *pool;
    told_at_end = pw_pool_create(0, &pool) == PW_INVALID_ARGUMENT && pw_last_error();
}

static void *fail_in_a_thread(void *argument) {
    (void)argument;
    pthread_setspecific(at_end, &at_end);
    int empty = !*pw_last_error();
    pw_isa_detect(NULL);
    return empty && !strcmp(pw_last_error(), "isa: expected a pointer, got null") ? argument : NULL;
}

static void test_threads(void) {
    pw_pool *pool;
    CHECK(pw_pool_create(0, &pool) == PW_INVALID_ARGUMENT);
    if (pthread_key_create(&at_end, fail_at_end)) abort();
    pthread_t thread;
    void *told;
    if (pthread_create(&thread, NULL, fail_in_a_thread, &at_end) || pthread_join(thread, &told)) abort();
    CHECK(told == &at_end && told_at_end);
    CHECK(!strcmp(pw_last_error(), "threads: expected 1 to 4096, got 0"));
}

int main(void) {
    test_bits();
    test_errors();
    test_packed();
    test_lazy_executor();
    test_threads();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
