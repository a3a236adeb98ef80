// The library that toys take a function from, as libc10_cuda takes cudaMalloc from the runtime.
extern "C" __attribute__((visibility("default"))) int toy_target(int value) { return value + 1; }
