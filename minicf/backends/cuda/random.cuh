// Random numbers of rng.py, and the order of an epoch.

#define GOLDEN 0x9E3779B97F4A7C15ull

__device__ __forceinline__ uint64 mix(uint64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// rng.permutation: a random key for each position, with the position in its low bits, so that no two keys are equal.
extern "C" __global__ void __launch_bounds__(THREADS, 1) order_keys(uint64 stream, uint64* keys, int n, int bits) {
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x)
        keys[i] = mix(stream + ((uint64)i + 1) * GOLDEN) >> bits << bits | (uint64)i;
}

// The order: the positions of the sorted keys.
extern "C" __global__ void __launch_bounds__(THREADS, 1) order_of(const uint64* keys, int* order, int n, int bits) {
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x)
        order[i] = (int)(keys[i] & (((uint64)1 << bits) - 1));
}
