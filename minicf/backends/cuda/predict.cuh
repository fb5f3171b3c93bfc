// Outputs for pairs of a user and an item, without dropout.

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    predict_pairs(const Setup a, const real* table, const int* user, const int* item, real* out, int64 n) {
    const int lane = threadIdx.x & 31;
    const int64 stride = (int64)gridDim.x * (blockDim.x >> 5), width = (int64)a.slots * a.stride;
    for (int64 i = blockIdx.x * (int64)(blockDim.x >> 5) + (threadIdx.x >> 5); i < n; i += stride) {
        Vec p[CHUNKS], q[CHUNKS];
        load_vec(p, table + user[i] * width, a.stride, lane);
        load_vec(q, table + (a.users + item[i]) * width, a.stride, lane);
        real s = warp_sum(score_part(a, p, q, lane)) + (real)a.mean;  // (F2), (F3)
        if (lane == 0) out[i] = predicted(s, RANGE, a.low, a.high);  // (F4)
    }
}

#if NETS
// The outputs of the head `wanted` of a net or a hybrid.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    predict_heads(const Setup a, const real* table, const Head* heads, real* dense, int count, int scratch_width,
                  int wanted, const int* user, const int* item, real* out, int64 n) {
    DYNAMIC_SHARED(real, shared);
    Nets nets = Nets{};
    nets.heads = heads, nets.dense = dense, nets.count = count, nets.scratch_width = scratch_width;
    const int64 width = (int64)a.slots * a.stride;
    for (int64 first = (int64)blockIdx.x * GROUP; first < n; first += (int64)gridDim.x * GROUP) {
        const int there = (int)min((int64)GROUP, n - first);
        for (int x = threadIdx.x; x < there * 2 * a.stride; x += blockDim.x) {
            int r = x / (2 * a.stride), side = x / a.stride % 2;
            int row = side ? a.users + item[first + r] : user[first + r];
            shared[x] = table[row * width + x % a.stride];
        }
        __syncthreads();
        heads_pass<false>(a, nets, shared, shared, shared + GROUP * 2 * a.stride, wanted, 0, there, 0, 0, n, first, 0, out);
        __syncthreads();
    }
}
#endif
