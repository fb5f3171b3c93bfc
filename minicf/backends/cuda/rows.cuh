// Rows of the table: loads into registers, stores, sums over a warp.

__device__ __forceinline__ int first_column(int chunk, int lane) { return (chunk * 32 + lane) * 4; }

__device__ __forceinline__ void load_vec(Vec* out, const real* from, int stride, int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        int column = first_column(c, lane);
        if (column < stride)
            out[c] = *(const Vec*)(from + column);
        else
            for (int i = 0; i < 4; ++i) out[c].x[i] = 0;
    }
}

// Stores of 16 bytes. The compiler merges loads by itself, but stored the moments one number at a time.
#ifdef EMULATED
__device__ __forceinline__ void put(real* to, const Vec& v) { *(Vec*)to = v; }
#else
__device__ __forceinline__ void put(float* to, const Vec& v) {
    asm volatile("st.v4.f32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(to), "f"((float)v.x[0]), "f"((float)v.x[1]), "f"((float)v.x[2]), "f"((float)v.x[3])
                 : "memory");
}
__device__ __forceinline__ void put(double* to, const Vec& v) {
    asm volatile("st.v2.f64 [%0], {%1, %2};" : : "l"(to), "d"((double)v.x[0]), "d"((double)v.x[1]) : "memory");
    asm volatile("st.v2.f64 [%0], {%1, %2};" : : "l"(to + 2), "d"((double)v.x[2]), "d"((double)v.x[3]) : "memory");
}
#endif

__device__ __forceinline__ void store_vec(real* to, const Vec* from, int stride, int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        int column = first_column(c, lane);
        if (column < stride) put(to + column, from[c]);
    }
}

__device__ __forceinline__ void load_row(const Setup& a, Row& r, const real* at, int lane) {
    load_vec(r.w, at, a.stride, lane);
    if (KIND != SGD) load_vec(r.m, at + a.stride, a.stride, lane);
    if (KIND == ADAM) load_vec(r.v, at + 2 * a.stride, a.stride, lane);
}

__device__ __forceinline__ void store_row(const Setup& a, const Row& r, real* at, int lane) {
    store_vec(at, r.w, a.stride, lane);
    if (KIND != SGD) store_vec(at + a.stride, r.m, a.stride, lane);
    if (KIND == ADAM) store_vec(at + 2 * a.stride, r.v, a.stride, lane);
}

__device__ __forceinline__ real decay_of(const Setup& a, int side, int column) {
    return (real)(column < a.factors ? a.decay[side] : a.decay[2 + side]);
}

__device__ __forceinline__ real warp_sum(real x) {
#pragma unroll
    for (int flip = 16; flip; flip >>= 1) x += __shfl_xor_sync(ALL_LANES, x, flip);
    return x;
}
