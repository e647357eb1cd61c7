// A layer of ResNet-50 on two threads. Handles free themselves, and a failure is an exception.
//
//     c++ -std=c++17 layer.cpp $(pkg-config --cflags --libs pointwise) && ./a.out

#include <iostream>
#include <memory>
#include <pointwise.h>
#include <stdexcept>
#include <vector>

struct Destroy {
    void operator()(pw_conv *conv) const { pw_conv_destroy(conv); }
    void operator()(pw_pool *pool) const { pw_pool_destroy(pool); }
};
using Conv = std::unique_ptr<pw_conv, Destroy>;
using Pool = std::unique_ptr<pw_pool, Destroy>;

static void check(pw_status status) {
    if (status != PW_OK) throw std::runtime_error(pw_last_error());
}

static Conv make_conv(const pw_conv_desc &desc, const float *weights, const float *bias) {
    pw_conv *conv;
    check(pw_conv_f32_create(&desc, weights, bias, &conv));
    return Conv(conv);
}

static Pool make_pool(std::size_t threads) {
    pw_pool *pool;
    check(pw_pool_create(threads, &pool));
    return Pool(pool);
}

int main() try {
    const std::size_t size = 56, in_channels = 64, out_channels = 256;
    pw_conv_desc desc{};
    desc.struct_size = sizeof desc;
    desc.in_channels = in_channels;
    desc.out_channels = out_channels;
    const std::vector<float> weights(out_channels * in_channels, 0.25f);
    const Conv conv = make_conv(desc, weights.data(), nullptr);
    const Pool pool = make_pool(2);

    std::vector<float> input(size * size * in_channels, 0.5f), output(size * size * out_channels);
    const pw_nhwc_f32 x{input.data(), 1, size, size, in_channels, 0, 0, 0};
    const pw_nhwc_f32 y{output.data(), 1, size, size, out_channels, 0, 0, 0};
    check(pw_conv_f32_run(conv.get(), &x, nullptr, &y, pool.get()));
    std::cout << output.front() << ' ' << output.back() << '\n'; // 8 8

    // What a mistake looks like.
    desc.groups = 3;
    try {
        make_conv(desc, weights.data(), nullptr);
    } catch (const std::exception &error) {
        std::cout << error.what() << '\n'; // groups: expected a divisor of 64 input and 256 output channels, got 3
    }
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
