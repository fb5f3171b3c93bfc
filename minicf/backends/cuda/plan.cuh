// The plan of a call: the rows of each batch, sorted into segments.
//
// A segment is the list of one row's ratings in one batch. Each rating is an element of two segments, its user's and
// its item's. Elements are sorted by (step, row, position in the batch), packed into a 64-bit key. No two keys are
// equal, so that every sort gives the same order. `spread` sorts rows by the block that owns them: a block's segments
// of a step are adjacent.

struct Plan {
    int n, batch, steps, users, rows, parts, by_side, bits;
};

__device__ __forceinline__ int rows_per_part(const Plan& p) { return (p.rows + p.parts - 1) / p.parts; }

__device__ __forceinline__ int64 spread(const Plan& p, int row) {
    return p.by_side ? row : (int64)(row % p.parts) * rows_per_part(p) + row / p.parts;
}

__device__ __forceinline__ int gathered(const Plan& p, int64 place) {
    if (p.by_side) return (int)place;
    int per = rows_per_part(p);
    return (int)(place % per) * p.parts + (int)(place / per);
}

__device__ __forceinline__ int64 span(const Plan& p) { return p.by_side ? p.rows : (int64)p.parts * rows_per_part(p); }

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    plan_keys(const Plan p, const int* order, const int* user, const int* item, uint64* keys) {
    for (int64 e = blockIdx.x * (int64)blockDim.x + threadIdx.x; e < 2 * (int64)p.n; e += (int64)gridDim.x * blockDim.x) {
        bool is_item = e >= p.n;
        int position = (int)(is_item ? e - p.n : e);
        int row = is_item ? p.users + item[order[position]] : user[order[position]];
        int64 step = position / p.batch;
        keys[e] = (uint64)(step * span(p) + spread(p, row)) << p.bits | (uint64)(position % p.batch);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) plan_heads(const Plan p, const uint64* keys, int* heads) {
    for (int64 e = blockIdx.x * (int64)blockDim.x + threadIdx.x; e < 2 * (int64)p.n; e += (int64)gridDim.x * blockDim.x)
        heads[e] = e == 0 || keys[e] >> p.bits != keys[e - 1] >> p.bits;
}

// The first element of a step; all steps before it have full batches.
__device__ __forceinline__ int64 step_begin(const Plan& p, int64 step) {
    return min(2 * (int64)p.batch * step, 2 * (int64)p.n);
}

// `ordinal` counts the heads up to and including each element: the number of its segment, from 1.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    plan_segments(const Plan p, const uint64* keys, const int* ordinal, const int* order, const float* rating, int* begin,
                  int* row_of, int* place, real* stars, int* slot) {
    for (int64 e = blockIdx.x * (int64)blockDim.x + threadIdx.x; e < 2 * (int64)p.n; e += (int64)gridDim.x * blockDim.x) {
        int64 step_and_row = (int64)(keys[e] >> p.bits), step = step_and_row / span(p);
        int row = gathered(p, step_and_row % span(p));
        int position = (int)(step * p.batch + (int64)(keys[e] & (((uint64)1 << p.bits) - 1)));
        int segment = ordinal[e] - 1;
        if (e == 0 || ordinal[e - 1] != ordinal[e]) {
            begin[segment] = (int)e;
            row_of[segment] = row;
        }
        if (e == 2 * (int64)p.n - 1) begin[segment + 1] = (int)e + 1;
        place[e] = position;
        stars[e] = (real)rating[order[position]];
        slot[(row >= p.users ? p.n : 0) + (int64)position] = segment - (ordinal[step_begin(p, step)] - 1);
    }
}

// The first element of a step whose `spread` row is at least `target`.
__device__ __forceinline__ int64 lower_bound(const Plan& p, const uint64* keys, int64 step, int64 target) {
    int64 low = step_begin(p, step), high = step_begin(p, step + 1);
    uint64 key = (uint64)(step * span(p) + target) << p.bits;
    while (low < high) {
        int64 middle = (low + high) / 2;
        if (keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The slot of a row in the batch of a step; -1 without one.
__device__ __forceinline__ int slot_in(const Plan& p, const uint64* keys, const int* ordinal, int64 step, int64 target) {
    if (step < 0 || step >= p.steps) return -1;
    int64 e = lower_bound(p, keys, step, target);
    if (e == step_begin(p, step + 1) || (int64)(keys[e] >> p.bits) != step * span(p) + target) return -1;
    return ordinal[e] - ordinal[step_begin(p, step)];
}

// partner: the other row of the rating, as a slot of the batch; with `by_side`, a user's element has the item's row of
// the table instead. next: the slot of the segment's row in the next batch, or -1. fresh: whether the row has no slot
// in the batch before.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    plan_links(const Plan p, const uint64* keys, const int* ordinal, const int* row_of, const int* place, const int* slot,
               int* partner, int* next, unsigned char* fresh) {
    for (int64 e = blockIdx.x * (int64)blockDim.x + threadIdx.x; e < 2 * (int64)p.n; e += (int64)gridDim.x * blockDim.x) {
        int segment = ordinal[e] - 1;
        bool is_item = row_of[segment] >= p.users;
        int64 step = place[e] / p.batch;
        int other = slot[(is_item ? 0 : p.n) + (int64)place[e]];
        partner[e] = p.by_side && !is_item ? row_of[ordinal[step_begin(p, step)] - 1 + other] : other;
        if (!p.by_side && (e == 0 || ordinal[e - 1] != ordinal[e])) {
            int64 target = spread(p, row_of[segment]);
            next[segment] = slot_in(p, keys, ordinal, step + 1, target);
            fresh[segment] = slot_in(p, keys, ordinal, step - 1, target) < 0;
        }
    }
}

// first[step][part]: the first segment of a part (a block's rows; users or items) in a step; then the last one's end.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    plan_first(const Plan p, const uint64* keys, const int* ordinal, int* first) {
    int64 count = (int64)p.steps * (p.parts + 1);
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < count; i += (int64)gridDim.x * blockDim.x) {
        int64 step = i / (p.parts + 1), part = i % (p.parts + 1);
        int64 target = p.by_side ? (part == 0 ? 0 : part == 1 ? p.users : p.rows) : part * rows_per_part(p);
        int64 e = lower_bound(p, keys, step, target);
        // Past the end of the step: one more than its last segment, which is the ordinal of its last element.
        first[i] = e == step_begin(p, step + 1) ? ordinal[e - 1] : ordinal[e] - 1;
    }
}
