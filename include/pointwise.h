/*
 * pointwise: the 1x1 (pointwise) convolution of NHWC tensors on the CPU, with the same bits on every instruction set.
 *
 *     pw_conv_desc desc = {.struct_size = sizeof desc, .in_channels = 3, .out_channels = 2, .activation = PW_RELU};
 *     pw_conv *conv;
 *     if (pw_conv_f32_create(&desc, weights, bias, &conv) != PW_OK) puts(pw_last_error());
 *
 *     pw_nhwc_f32 x = {.data = input, .n = 1, .h = 4, .w = 4, .c = 3};
 *     pw_nhwc_f32 y = {.data = output, .n = 1, .h = 4, .w = 4, .c = 2};
 *     if (pw_conv_f32_run(conv, &x, NULL, &y, NULL) != PW_OK) puts(pw_last_error());
 *     pw_conv_destroy(conv);
 *
 * Errors: every function that can fail returns a pw_status, and pw_last_error says in words what went wrong. Pointers
 * that are null or misaligned, shapes that do not fit and tensors that overlap are told; whether memory is as long as a
 * shape says cannot be known. What a function takes on trust stands under "Safety".
 *
 * Ownership: what a function creates, its destroy function frees, once nothing uses it any more. The library keeps no
 * pointer to the caller's memory after a call, but for an executor's context and packed bytes that are not copied.
 *
 * Threads: any number may use a convolution, or a pool, at the same time. The last error is each thread's own.
 */

#ifndef POINTWISE_H
#define POINTWISE_H

/* Generated from src/capi.rs by cbindgen. */

#include <stddef.h>
#include <stdint.h>

/// The version of this header.
#define PW_VERSION_MAJOR 0

/// The version of this header.
#define PW_VERSION_MINOR 1

/// The version of this header.
#define PW_VERSION_PATCH 0

/// The version of this header in one number, to be compared with what `pw_version` returns.
#define PW_VERSION (((PW_VERSION_MAJOR * 10000) + (PW_VERSION_MINOR * 100)) + PW_VERSION_PATCH)

/// For `flags` of a `pw_conv_desc`: a residual is added after the activation rather than before it.
#define PW_RESIDUAL_AFTER_ACTIVATION 1

/// Of `pw_conv_f32_create_packed`: the bytes are copied, so that they may lie anywhere and need not stay.
#define PW_PACKED_COPY 1

/// Of `pw_conv_f32_create_packed`: only the header is checked. The other bytes are read for a copy alone; where they are
/// damaged, outputs are wrong.
#define PW_PACKED_HEADER_ONLY 2

/// What a call came to. Where it is not `PW_OK`, `pw_last_error` says why.
typedef enum pw_status {
    /// Success.
    PW_OK = 0,
    /// An argument is null, misaligned, out of range, or does not fit the others; or a `pw_executor` has called nothing.
    PW_INVALID_ARGUMENT = 1,
    /// The CPU has not the ISA that was asked for.
    PW_UNAVAILABLE = 2,
    /// Memory or threads could not be had.
    PW_OUT_OF_RESOURCES = 3,
    /// A bug in this library.
    PW_INTERNAL = 4,
} pw_status;

/// An instruction set. All give the same bits.
typedef enum pw_isa {
    /// What `pw_isa_detect` finds.
    PW_ISA_AUTO = 0,
    /// No vector instructions: every CPU has it.
    PW_ISA_SCALAR = 1,
    /// AVX2 with FMA on x86.
    PW_ISA_AVX2 = 2,
    /// AVX-512 F, BW, CD, DQ and VL on x86.
    PW_ISA_AVX512 = 3,
    /// NEON on aarch64.
    PW_ISA_NEON = 4,
} pw_isa;

/// The function applied to each output value. A NaN gives a NaN.
typedef enum pw_activation {
    /// x
    PW_IDENTITY = 0,
    /// x < 0 ? 0 : x
    PW_RELU = 1,
    /// x limited to param_a (minimum) and param_b (maximum): 0 and 6 make relu6.
    PW_CLAMP = 2,
    /// 1 / (1 + exp(-x)), within 0.987 ulp.
    PW_SIGMOID = 3,
    /// The hyperbolic tangent of x, within 1.066 ulp.
    PW_TANH = 4,
    /// x < 0 ? param_a * x : x
    PW_LEAKY_RELU = 5,
    /// x < 0 ? slope * x : x, with the slope of the output channel in `slopes`.
    PW_PRELU = 6,
    /// param_a * x + param_b, limited to 0..1. ONNX: 0.2 and 0.5 by default; PyTorch: 1/6 and 0.5.
    PW_HARD_SIGMOID = 7,
    /// x * clamp(x / 6 + 1/2, 0, 1), within 2.5 ulp.
    PW_HARD_SWISH = 8,
    /// x / (1 + exp(-param_a * x)), within 2.8 ulp. With a param_a of 1 it is silu.
    PW_SWISH = 9,
    /// x / 2 * (1 + erf(x / sqrt(2))), within 2.9 ulp.
    PW_GELU = 10,
    /// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), within 2.7 ulp.
    PW_GELU_TANH = 11,
    /// x < 0 ? param_a * (exp(x) - 1) : x, within 1.8 ulp. ONNX and PyTorch: 1 by default.
    PW_ELU = 12,
    /// ln(1 + exp(x)), within 2 ulp.
    PW_SOFTPLUS = 13,
    /// x * tanh(ln(1 + exp(x))), within 2.9 ulp.
    PW_MISH = 14,
} pw_activation;

/// A convolution: packed weights, and all that is decided before an input is seen. It never changes: any number of
/// threads may use one at the same time.
typedef struct pw_conv pw_conv;

/// Who runs the tasks that a convolution is split into: threads of this library's, or of the caller's.
typedef struct pw_pool pw_pool;

/// What a convolution is made of. Only the size and the channels must be set: a field that is 0 has its default.
///
/// Fields are only ever added at the end; `struct_size` tells which are there.
typedef struct pw_conv_desc {
    /// sizeof(pw_conv_desc)
    size_t struct_size;
    /// K, the channels of the input.
    size_t in_channels;
    /// F, the channels of the output.
    size_t out_channels;
    /// Equal parts that the channels are cut into; each part of the output sees only its part of the input. Default: 1.
    size_t groups;
    /// Every stride_h-th row of the input is read, from the first on. Default: 1.
    size_t stride_h;
    /// Every stride_w-th pixel of such a row is read, from the first on. Default: 1.
    size_t stride_w;
    /// A `pw_activation`. Default: PW_IDENTITY.
    int32_t activation;
    /// PW_CLAMP: the minimum. Others: as is said of the activation; 0 is 0, not a default.
    float param_a;
    /// PW_CLAMP: the maximum, not less than the minimum. Others: as is said of the activation.
    float param_b;
    /// A `pw_isa`. Default: PW_ISA_AUTO. Another one is taken whatever POINTWISE_MAX_ISA says.
    int32_t isa;
    /// One value for each output channel, by which the sum is multiplied, or null. `shift` must be given with it.
    const float *scale;
    /// One value for each output channel, which is then added, or null.
    const float *shift;
    /// One value for each output channel: PW_PRELU needs them, for the others it must be null.
    const float *slopes;
    /// PW_RESIDUAL_AFTER_ACTIVATION or 0.
    size_t flags;
} pw_conv_desc;

/// A view of an NHWC tensor: value c of the pixel in image n, row h and column w is
/// `data[n * batch_stride + h * row_stride + w * pixel_stride + c]`.
///
/// Strides count values, not bytes. A stride of 0 stands for a dense tensor's: pixel_stride for c, row_stride for
/// w * pixel_stride, batch_stride for h * row_stride. A crop, some of the channels, rows with padding are views, too.
typedef struct pw_nhwc_f32 {
    /// The first value, aligned as a float. May be null where the view has no values. Inputs are not written.
    float *data;
    /// Images.
    size_t n;
    /// Rows of an image.
    size_t h;
    /// Pixels of a row.
    size_t w;
    /// Channels of a pixel. They lie side by side.
    size_t c;
    /// Values from an image to the next, or 0.
    size_t batch_stride;
    /// Values from a row to the next, or 0.
    size_t row_stride;
    /// Values from a pixel to the next, or 0.
    size_t pixel_stride;
} pw_nhwc_f32;

/// One of several convolutions of the same input, for `pw_heads_f32_run`.
///
/// Fields are only ever added at the end; `struct_size` tells which are there, and is the same for all of an array.
typedef struct pw_head {
    /// sizeof(pw_head)
    size_t struct_size;
    /// The convolution.
    const struct pw_conv *conv;
    /// As for `pw_conv_f32_run`; may be null.
    const struct pw_nhwc_f32 *residual;
    /// As for `pw_conv_f32_run`.
    const struct pw_nhwc_f32 *output;
} pw_head;

/// The work of a thread. `context` is the `task_context` that came with it.
typedef void (*pw_task)(void *context, size_t task);

/// The caller's threads, for `pw_pool_create_with`. A field that is 0 has its default, where one is given.
///
/// Fields are only ever added at the end; `struct_size` tells which are there.
typedef struct pw_executor {
    /// sizeof(pw_executor)
    size_t struct_size;
    /// How many threads can work at the same time, 1 or more. With 1, the calling thread does all and `run` is not called.
    size_t threads;
    /// Calls `task(task_context, i)` for every i < tasks, which are no more than `threads`, in any order, on any threads, and
    /// returns when all calls have returned. Each call works until nothing is left to do: calls may be left out, but for one,
    /// where no thread is free for them. It must not throw or jump out. `context` is the field below. For instance, one of
    /// ```c
    /// pthreadpool_parallelize_1d(context, task, task_context, tasks, 0);       // pthreadpool, which is XNNPACK's
    /// ort->KernelContext_ParallelFor(context, task, tasks, 0, task_context);   // ONNX Runtime
    /// #pragma omp parallel for                                                 // OpenMP
    /// for (size_t i = 0; i < tasks; i++) task(task_context, i);
    /// ```
    void (*run)(void *context, size_t tasks, pw_task task, void *task_context);
    /// Handed to `run`. May be null.
    void *context;
    /// Multiply-adds that are worth another thread: a run of fewer than twice as many stays on the calling thread.
    /// Default: 2^21, for threads that sleep between two runs; 2^18 is right for threads that spin.
    size_t work_per_thread;
} pw_executor;





#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// The version of the library as `PW_VERSION` is that of the header: 10000 * major + 100 * minor + patch.
uint32_t pw_version(void);

/// What went wrong in this thread's last call that failed: one sentence, with what was expected and what was given.
/// Empty where none has failed. Valid until this thread's next call; not to be freed.
const char *pw_last_error(void);

/// The name of a `pw_status`, such as "PW_OK", or "unknown" for another number. Valid for ever.
const char *pw_status_name(int32_t status);

/// The name of a `pw_isa`: "auto", "scalar", "avx2", "avx512", "neon", or "unknown" for another number. Valid for ever.
const char *pw_isa_name(int32_t isa);

/// Sets `*isa` to what PW_ISA_AUTO stands for: the best that the CPU has, up to the one that the environment variable
/// POINTWISE_MAX_ISA names, if it is set. Both are asked once in a process. Fails where the variable names none.
///
/// # Safety
/// `isa` points to room for one.
enum pw_status pw_isa_detect(enum pw_isa *isa);

/// Lists the ISAs that the CPU has, the best last: sets `*count` to their number, and the first `capacity` of `isas`,
/// which may be null where `capacity` is 0. POINTWISE_MAX_ISA does not shorten the list.
///
/// # Safety
/// `isas` points to room for `capacity`, `count` to room for one.
enum pw_status pw_isa_available(enum pw_isa *isas, size_t capacity, size_t *count);

/// Creates a convolution and sets `*conv` to it, or to null on failure. `pw_conv_destroy` frees it.
///
/// `weights` are out_channels x (in_channels / groups) values, row-major: OHWI with H = W = 1. `bias` is one value for
/// each output channel, or null for zeros. All arguments are copied: nothing of them is used after the call.
///
/// # Safety
/// Each pointer is null or points to what is said of it; `conv` to room for a pointer.
enum pw_status pw_conv_f32_create(const struct pw_conv_desc *desc, const float *weights, const float *bias, struct pw_conv **conv);

/// Destroys a convolution. Null is let pass.
///
/// # Safety
/// `conv` is null or came from `pw_conv_f32_create` or `pw_conv_f32_create_packed`, is not in use, and is not used again.
void pw_conv_destroy(struct pw_conv *conv);

/// Sets `output_shape` to the shape of the output for an input of `input_shape`, four values each: images, rows, pixels
/// of a row, channels. The output has ceil(rows / stride_h) rows of ceil(pixels / stride_w) pixels.
///
/// # Safety
/// `conv` came from a create function, `input_shape` points to four values, `output_shape` to room for four.
enum pw_status pw_conv_output_shape(const struct pw_conv *conv, const size_t *input_shape, size_t *output_shape);

/// Computes the output: at every pixel and for every output channel
/// ```text
/// sum = bias[f] + sum over k of input[n, i * stride_h, j * stride_w, k] * weights[f, k]
/// output[n, i, j, f] = activation(residual[n, i, j, f] + (scale[f] * sum + shift[f]))
/// output[n, i, j, f] = residual[n, i, j, f] + activation(scale[f] * sum + shift[f])   // PW_RESIDUAL_AFTER_ACTIVATION
/// ```
/// The bits do not depend on the ISA, the threads, the strides or the batch: the sum is one chain of fused
/// multiply-adds, which starts at the bias and takes k in ascending order. Nor do they depend on how the calling thread, or
/// one of the pool's, rounds, flushes denormals or traps exceptions; that is left as it was. Nothing is allocated.
///
/// `residual` may be null; it and `output` have the shape that `pw_conv_output_shape` tells. It may be the output itself,
/// the same data, shape and strides: then what stands there is added, and overwritten. Else `input` and `residual` are only
/// read, and may share memory; `output` may not share with them: from the first to the last value of each view, also where
/// those in between belong to nobody. `pool` may be null: the calling thread does all the work. On failure
/// nothing has been written, but where it is PW_INTERNAL.
///
/// # Safety
/// Each pointer is null or points to what its type says; the views' data to all values that shape and strides span.
/// Meanwhile no other thread writes those of `input` and `residual`, nor reads or writes the values of `output`'s pixels:
/// what lies between them, such as other channels of the same tensor, is not touched.
enum pw_status pw_conv_f32_run(const struct pw_conv *conv,
                               const struct pw_nhwc_f32 *input,
                               const struct pw_nhwc_f32 *residual,
                               const struct pw_nhwc_f32 *output,
                               const struct pw_pool *pool);

/// Runs several convolutions of the same input in one pass, which reads it from memory once: the heads of a detector,
/// Inception's reductions, q, k and v. The bits are those of `pw_conv_f32_run` for one after the other. Up to eight
/// neighbours share a pass, where their strides are equal and the rows of their outputs lie alike: one behind the other, or
/// with gaps.
///
/// What is said there holds for each head, but that two lists of the heads are allocated, and that a `pw_executor` which
/// calls nothing may do so when some heads have been written. Their outputs may not share values
/// with each other, nor with a residual of another, but they may lie side by side: views of different channels of one tensor,
/// with equal strides. Every two heads are compared for that.
///
/// # Safety
/// As for `pw_conv_f32_run`; `heads` points to `count` of them.
enum pw_status pw_heads_f32_run(const struct pw_nhwc_f32 *input, const struct pw_head *heads, size_t count, const struct pw_pool *pool);

/// Tells, as text of aligned lines, how a dense input of `input_shape` (four values: images, rows, pixels of a row,
/// channels) is computed with `pool`, which may be null: ISA, register tile, tasks, threads, FLOPs, bytes.
///
/// As `snprintf` does, it writes up to `size` bytes to `buffer`, the last of them 0, and tells in `*length` how long
/// the whole text is, without that 0. `buffer` may be null where `size` is 0, and `length` where nobody wants to know.
///
/// # Safety
/// Each pointer is null or points to what is said of it.
enum pw_status pw_conv_explain(const struct pw_conv *conv,
                               const size_t *input_shape,
                               const struct pw_pool *pool,
                               char *buffer,
                               size_t size,
                               size_t *length);

/// Creates a pool on which `threads` threads, 1 to 4096, work, the calling one among them, and sets `*pool` to it, or to
/// null on failure. `pw_pool_destroy` frees it. More threads than there are cores only get into each other's way.
///
/// The threads spin for a millisecond before they sleep, so that the next layer finds them awake. Several threads may
/// use a pool at the same time: one gets its threads, and the others work alone.
///
/// # Safety
/// `pool` is null or points to room for a pointer.
enum pw_status pw_pool_create(size_t threads, struct pw_pool **pool);

/// Creates a pool of the caller's threads and sets `*pool` to it, or to null on failure. `pw_pool_destroy` frees it.
///
/// The struct is copied; what its `context` points to must live as long as the pool. `run` is called on the thread that
/// runs a convolution, and by several at once where several use the pool at once.
///
/// # Safety
/// `executor` is null or points to a struct that keeps to what is said of its fields; `pool` to room for a pointer.
enum pw_status pw_pool_create_with(const struct pw_executor *executor, struct pw_pool **pool);

/// Destroys a pool, and ends its threads. Null is let pass.
///
/// # Safety
/// `pool` is null or came from `pw_pool_create` or `pw_pool_create_with`, is not in use, and is not used again.
void pw_pool_destroy(struct pw_pool *pool);

/// Sets `*size` to the bytes that `pw_conv_pack` writes.
///
/// # Safety
/// `conv` is null or came from a create function, `size` is null or points to room for one.
enum pw_status pw_conv_packed_size(const struct pw_conv *conv, size_t *size);

/// Writes all that the convolution is, but for its ISA, to `buffer`, which has `size` bytes, as many as
/// `pw_conv_packed_size` tells. They may be kept in a file, and loaded by any machine of the same byte order, whatever
/// its ISA. docs/packed-format.md describes them.
///
/// # Safety
/// `conv` is null or came from a create function; `buffer` is null or points to room for `size` bytes, which nobody else
/// reads or writes meanwhile.
enum pw_status pw_conv_pack(const struct pw_conv *conv, void *buffer, size_t size);

/// Creates a convolution of the `size` bytes that `pw_conv_pack` wrote, and sets `*conv` to it, or to null on failure.
/// `pw_conv_destroy` frees it. `isa` is a `pw_isa`; `flags` are 0, or some of PW_PACKED_COPY and PW_PACKED_HEADER_ONLY.
///
/// Unless PW_PACKED_COPY is among them nothing is copied: `bytes`, a mapped file for instance, start at an address
/// divisible by 64, and stay as they are until the convolution is destroyed. Bytes that are damaged, of another version or
/// of no convolution are refused.
///
/// # Safety
/// `bytes` is null or points to `size` bytes that nobody writes or frees before the convolution is destroyed, with
/// PW_PACKED_COPY before this function returns. `conv` is null or points to room for a pointer.
enum pw_status pw_conv_f32_create_packed(const void *bytes, size_t size, uint32_t flags, int32_t isa, struct pw_conv **conv);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* POINTWISE_H */
