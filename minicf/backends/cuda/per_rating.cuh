// Online SGD: a step per rating.
//
// Ratings are cut into tiles: `workers` blocks of users times as many blocks of items. A round has one tile of each
// block of users, each with another block of items, so that no two tiles of a round share a row. A warp works through a
// tile. The result is that of online SGD in the order of the tiles, for any number of warps.

#if HALF
typedef unsigned short stored;
struct __align__(8) Stored4 {
    stored x[4];
};
#ifdef EMULATED
__device__ __forceinline__ real widen(stored x) { return __half2float(*(__half*)&x); }
__device__ __forceinline__ stored narrow(real x) {
    __half h = __float2half(x);
    return *(stored*)&h;
}
#else
__device__ __forceinline__ real widen(stored x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ stored narrow(real x) {
    stored y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"((float)x));
    return y;
}
#endif
#else
typedef real stored;
struct __align__(16) Stored4 {
    stored x[4];
};
__device__ __forceinline__ real widen(stored x) { return x; }
__device__ __forceinline__ stored narrow(real x) { return x; }
#endif

__device__ __forceinline__ void load_stored(Vec* out, const stored* from, int stride, int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        int column = first_column(c, lane);
        Stored4 four = Stored4{};
        if (column < stride) four = *(const Stored4*)(from + column);
        for (int i = 0; i < 4; ++i) out[c].x[i] = widen(four.x[i]);
    }
}

__device__ __forceinline__ void store_stored(stored* to, const Vec* from, int stride, int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        int column = first_column(c, lane);
        Stored4 four;
        for (int i = 0; i < 4; ++i) four.x[i] = narrow(from[c].x[i]);
        if (column < stride) *(Stored4*)(to + column) = four;
    }
}

// The ratings order[from … to - 1], one after the other, by a warp.
__device__ __forceinline__ void ratings_in_turn(const Setup& a, stored* table, const int* user, const int* item,
                                                const float* rating, const int* order, real lr, real* losses, int from,
                                                int to, int lane) {
    const Rates rate = Rates{lr, 0, 1, 0};
    for (int e0 = from; e0 < to; e0 += 32) {
        bool has = e0 + lane < to;
        int row = has ? order[e0 + lane] : 0;
        int users = has ? user[row] : 0, items = has ? item[row] : 0;
        real stars = has ? rating[row] : 0, values = 0;
        int count = min(32, to - e0);
        for (int j = 0; j < count; ++j) {
            stored* p_at = table + (int64)__shfl_sync(ALL_LANES, users, j) * a.stride;
            stored* q_at = table + ((int64)a.users + __shfl_sync(ALL_LANES, items, j)) * a.stride;
            real star = __shfl_sync(ALL_LANES, stars, j);
            Row r;
            Vec q[CHUNKS], old_p[CHUNKS], g[CHUNKS];
            load_stored(r.w, p_at, a.stride, lane);  // (F1)
            load_stored(q, q_at, a.stride, lane);
            real s = warp_sum(score_part(a, r.w, q, lane)) + (real)a.mean;  // (F2), (F3)
            Loss loss = loss_of(a, s, RANGE, a.low, a.high, star, 1);       // (F4), (F9), (B9), (B4)
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) old_p[c] = r.w[c];
            clear(g);
            add_gradient(a, g, q, loss.slope, lane);  // (B2), (B3)
            move_row(a, rate, r, g, 0, 1, lane);
            store_stored(p_at, r.w, a.stride, lane);
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) r.w[c] = q[c];
            clear(g);
            add_gradient(a, g, old_p, loss.slope, lane);
            move_row(a, rate, r, g, 1, 1, lane);
            store_stored(q_at, r.w, a.stride, lane);
            if (lane == j) values = loss.value;
        }
        if (has) losses[e0 + lane] = values;
    }
}

// Keys that sort ratings by round, then by block of users, and within a tile by `order`.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    tile_keys(const int* order, const int* user, const int* item, uint64* keys, int n, int workers, int bits) {
    for (int64 e = blockIdx.x * (int64)blockDim.x + threadIdx.x; e < n; e += (int64)gridDim.x * blockDim.x) {
        int u = user[order[e]] % workers, i = item[order[e]] % workers, round = (i - u + workers) % workers;
        keys[e] = ((uint64)round * workers + u) << bits | (uint64)e;
    }
}

// From sorted keys: the order, and where the tiles of each round begin and the last one ends, (rounds, workers + 1).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    tile_order(const uint64* keys, const int* order, int* tiled, int* starts, int n, int workers, int bits) {
    int64 tiles = (int64)workers * (workers + 1), work = max((int64)n, tiles);
    for (int64 x = blockIdx.x * (int64)blockDim.x + threadIdx.x; x < work; x += (int64)gridDim.x * blockDim.x) {
        if (x < n) tiled[x] = order[keys[x] & (((uint64)1 << bits) - 1)];
        if (x >= tiles) continue;
        int64 tile = x / (workers + 1) * workers + x % (workers + 1);  // the end of a round is the beginning of the next
        int low = 0, high = n;
        while (low < high) {
            int middle = low + (high - low) / 2;
            if (keys[middle] >> bits < (uint64)tile)
                low = middle + 1;
            else
                high = middle;
        }
        starts[x] = low;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sgd_tiles(const Setup a, stored* table, const int* user, const int* item, const float* rating, const int* order,
              const int* starts, const real* lr, real* losses, unsigned* barrier, int rounds, int workers) {
    const int lane = threadIdx.x & 31, warps = gridDim.x * (blockDim.x >> 5);
    // Adjacent tiles go to different blocks.
    const int first = (threadIdx.x >> 5) * gridDim.x + blockIdx.x;
    for (int round = 0; round < rounds; ++round) {
        for (int tile = first; tile < workers; tile += warps) {
            const int* at = starts + (int64)round * (workers + 1) + tile;
            ratings_in_turn(a, table, user, item, rating, order, lr[round], losses, at[0], at[1], lane);
        }
        grid_arrive(barrier);
        grid_wait(barrier, (unsigned)(round + 1) * gridDim.x);
    }
}

// Each warp takes the next 32 ratings, even if another warp works on the same rows: some updates are lost, and results
// differ from run to run. Only `train_racing` launches it.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sgd_racing(const Setup a, stored* table, const int* user, const int* item, const float* rating, const int* order,
               double lr, real* losses, int n) {
    const int lane = threadIdx.x & 31, warps = gridDim.x * (blockDim.x >> 5);
    for (int64 e = 32 * (int64)(blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)); e < n; e += 32 * (int64)warps)
        ratings_in_turn(a, table, user, item, rating, order, (real)lr, losses, (int)e, min((int)e + 32, n), lane);
}
