// What CUDA C++ has and C++ lacks, for running the kernels on a CPU. Included before the kernels by the build.
//
// A CUDA thread is a fiber (device.cpp). Every collective operation deposits its value and waits; the last lane to
// arrive computes for all. Only what the kernels use is here: anything else is a compile error, on purpose.
#pragma once
#define EMULATED 1

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x, y, z;
};

namespace emu {
struct Place {
    dim3 thread, block, block_size, grid_size;
    unsigned char* shared;
};
extern Place* here;  // of the running fiber

enum Op { SYNCWARP, SHUFFLE, BALLOT, SYNCTHREADS, ANY_OF_BLOCK };
uint64_t collective(Op op, unsigned mask, uint64_t value, int source, int line);
int block_barrier(Op op, int value, int line);
void pause(int line);
void grid_arrive(int line);
void grid_wait(int line);
void atomic(const void* address, size_t size, int line);
[[noreturn]] void fail(int line, const char* format, ...);

template <class T>
uint64_t to_bits(T x) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof(T));
    return bits;
}
template <class T>
T from_bits(uint64_t bits) {
    T x;
    memcpy(&x, &bits, sizeof(T));
    return x;
}
}  // namespace emu

#define threadIdx (emu::here->thread)
#define blockIdx (emu::here->block)
#define blockDim (emu::here->block_size)
#define gridDim (emu::here->grid_size)
#define DYNAMIC_SHARED(type, name) type* name = (type*)emu::here->shared
// The kernels' own grid barrier ends in these, which order memory for the race checker. They are not believed
// blindly: passing one before every thread of the grid has arrived is an error.
#define GRID_ARRIVED() emu::grid_arrive(__LINE__)
#define GRID_PASSED() emu::grid_wait(__LINE__)

#define EMU_LINE int line = __builtin_LINE()

inline void __syncthreads(EMU_LINE) { emu::block_barrier(emu::SYNCTHREADS, 0, line); }
inline int __syncthreads_or(int value, EMU_LINE) { return emu::block_barrier(emu::ANY_OF_BLOCK, value, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_LINE) { emu::collective(emu::SYNCWARP, mask, 0, 0, line); }
inline void __threadfence() {}
inline void __nanosleep(unsigned, EMU_LINE) { emu::pause(line); }

template <class T>
T __shfl_sync(unsigned mask, T x, int source, EMU_LINE) {
    return emu::from_bits<T>(emu::collective(emu::SHUFFLE, mask, emu::to_bits(x), source & 31, line));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int flip, EMU_LINE) {
    int lane = emu::here->thread.x & 31;
    return emu::from_bits<T>(emu::collective(emu::SHUFFLE, mask, emu::to_bits(x), lane ^ flip, line));
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned by, EMU_LINE) {
    int lane = emu::here->thread.x & 31;
    int source = lane < (int)by ? lane : lane - (int)by;
    return emu::from_bits<T>(emu::collective(emu::SHUFFLE, mask, emu::to_bits(x), source, line));
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned by, EMU_LINE) {
    int lane = emu::here->thread.x & 31;
    int source = lane + (int)by > 31 ? lane : lane + (int)by;
    return emu::from_bits<T>(emu::collective(emu::SHUFFLE, mask, emu::to_bits(x), source, line));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_LINE) {
    return (unsigned)emu::collective(emu::BALLOT, mask, predicate != 0, 0, line);
}
inline int __any_sync(unsigned mask, int predicate, EMU_LINE) { return __ballot_sync(mask, predicate, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, EMU_LINE) {
    return __ballot_sync(mask, predicate, line) == mask;
}

template <class T>
T atomicAdd(T* address, T value, EMU_LINE) {
    emu::atomic(address, sizeof(T), line);
    T old = *(volatile T*)address;
    *(volatile T*)address = old + value;
    return old;
}
template <class T>
T atomicMin(T* address, T value, EMU_LINE) {
    emu::atomic(address, sizeof(T), line);
    T old = *(volatile T*)address;
    if (value < old) *(volatile T*)address = value;
    return old;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
T __ldcg(const T* p) {
    return *p;
}
template <class T>
void __stcg(T* p, T x) {
    *p = x;
}
template <class A>
A min(A a, A b) {
    return b < a ? b : a;
}
template <class A>
A max(A a, A b) {
    return a < b ? b : a;
}

// Half precision as storage. The conversions are the compiler's own, as __float2half's round to nearest even.
struct __half {
    _Float16 value;
};
inline float __half2float(__half x) { return (float)x.value; }
inline __half __float2half(float x) { return __half{(_Float16)x}; }
