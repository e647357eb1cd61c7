// Two output channels from three input channels, with bias and relu, at each pixel of a small picture.
//
//     cc layer.c $(pkg-config --cflags --libs pointwise) && ./a.out

#include <pointwise.h>
#include <stdio.h>
#include <stdlib.h>

static void check(pw_status status) {
    if (status == PW_OK) return;
    fprintf(stderr, "%s: %s\n", pw_status_name(status), pw_last_error());
    exit(EXIT_FAILURE);
}

int main(void) {
    const float weights[2][3] = {{1, 2, 3}, {-1, 0, 1}}, bias[2] = {0.5f, -0.5f};
    pw_conv_desc desc = {.struct_size = sizeof desc, .in_channels = 3, .out_channels = 2, .activation = PW_RELU};
    pw_conv *conv;
    check(pw_conv_f32_create(&desc, weights[0], bias, &conv));

    float input[] = {1, 0, 1, 2, 1, 0}, output[4]; // one row of two pixels
    pw_nhwc_f32 x = {.data = input, .n = 1, .h = 1, .w = 2, .c = 3};
    pw_nhwc_f32 y = {.data = output, .n = 1, .h = 1, .w = 2, .c = 2};
    check(pw_conv_f32_run(conv, &x, NULL, &y, NULL));
    printf("%g %g, %g %g\n", output[0], output[1], output[2], output[3]);

    char text[512];
    check(pw_conv_explain(conv, (size_t[]){1, 56, 56, 3}, NULL, text, sizeof text, NULL));
    printf("a picture of 56 x 56 pixels:\n%s\n", text);
    pw_conv_destroy(conv);
}
