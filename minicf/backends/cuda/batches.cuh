// Large batches: two passes over segments, users and items. The warp that sums a row's gradient updates the row.

// Catch up the rows of the batch: items, and users too if `from_part` is 0.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    batch_catch_up(const Setup a, const int* first, const int* row_of, real* table, int* stamps, const Rates* rates,
                   const Map* idle, int steps, int step, int from_part) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5);
    const int* part = first + (int64)step * 3;
    for (int segment = part[from_part] + blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); segment < part[2]; segment += stride) {
        int row = row_of[segment], stamp = stamps[row];
        if (stamp >= step) continue;
        real* at = table + (int64)row * a.slots * a.stride;
        Row r;
        load_row(a, r, at, lane);
        catch_up(a, rates, idle, steps, r, row >= a.users, stamp, step, lane);
        store_row(a, r, at, lane);
        __syncwarp();
        if (lane == 0) stamps[row] = step;
    }
}

// Forward, loss, and the update of users. The users' rows before the update go to `before`, for `batch_items`.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    batch_users(const Setup a, const int* first, const int* begin, const int* row_of, const int* partner,
                const int* place, const real* stars, real* table, int* stamps, const Rates* rates, const Map* idle,
                real* before, real* d_s, real* losses, int n, int batch, int steps, int step) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5);
    const int64 width = (int64)a.slots * a.stride;
    const int* part = first + (int64)step * 3;
    const int size = min(batch, n - step * batch);
    for (int segment = part[0] + blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); segment < part[1]; segment += stride) {
        int row = row_of[segment], from = begin[segment], to = begin[segment + 1];
        Row r;
        Vec g[CHUNKS];
        load_row(a, r, table + row * width, lane);  // (F1)
        if (!SPARSE) catch_up(a, rates, idle, steps, r, 0, stamps[row], step, lane);
        store_vec(before + (int64)(segment - part[0]) * a.stride, r.w, a.stride, lane);
        clear(g);
        for (int e0 = from; e0 < to; e0 += 32) {
            bool has = e0 + lane < to;
            int partners = has ? partner[e0 + lane] : 0;
            real rating = has ? stars[e0 + lane] : 0, values = 0, slopes = 0;
            int count = min(32, to - e0);
            for (int j = 0; j < count; ++j) {
                int other = __shfl_sync(ALL_LANES, partners, j);
                real star = __shfl_sync(ALL_LANES, rating, j);
                Vec q[CHUNKS];
                load_vec(q, table + other * width, a.stride, lane);
                real s = warp_sum(score_part(a, r.w, q, lane)) + (real)a.mean;  // (F2), (F3)
                Loss loss = loss_of(a, s, RANGE, a.low, a.high, star, size);    // (F4), (F9), (B9), (B4)
                add_gradient(a, g, q, loss.slope, lane);                        // (B2), (B3), (B1)
                if (lane == j) values = loss.value, slopes = loss.slope;
            }
            if (has) {
                losses[place[e0 + lane]] = values;
                d_s[place[e0 + lane] - step * batch] = slopes;
            }
        }
        move_row(a, rates[step], r, g, 0, (real)(to - from) / size, lane);
        store_row(a, r, table + row * width, lane);
        __syncwarp();
        if (!SPARSE && lane == 0) stamps[row] = step + 1;
    }
}

// The update of items.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    batch_items(const Setup a, const int* first, const int* begin, const int* row_of, const int* partner,
                const int* place, real* table, int* stamps, const Rates* rates, const real* before, const real* d_s,
                int n, int batch, int step) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5);
    const int64 width = (int64)a.slots * a.stride;
    const int* part = first + (int64)step * 3;
    const int size = min(batch, n - step * batch);
    for (int segment = part[1] + blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); segment < part[2]; segment += stride) {
        int row = row_of[segment], from = begin[segment], to = begin[segment + 1];
        Row r;
        Vec g[CHUNKS];
        load_row(a, r, table + row * width, lane);
        clear(g);
        for (int e0 = from; e0 < to; e0 += 32) {
            bool has = e0 + lane < to;
            int partners = has ? partner[e0 + lane] : 0;
            real slopes = has ? d_s[place[e0 + lane] - step * batch] : 0;
            int count = min(32, to - e0);
            for (int j = 0; j < count; ++j) {
                int other = __shfl_sync(ALL_LANES, partners, j);
                real d = __shfl_sync(ALL_LANES, slopes, j);
                Vec p[CHUNKS];
                load_vec(p, before + (int64)other * a.stride, a.stride, lane);
                add_gradient(a, g, p, d, lane);  // (B2), (B3), (B1)
            }
        }
        move_row(a, rates[step], r, g, 1, (real)(to - from) / size, lane);
        store_row(a, r, table + row * width, lane);
        if (!SPARSE && lane == 0) stamps[row] = step + 1;
    }
}

// Catch up all rows, to `to` steps.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sweep(const Setup a, real* table, int* stamps, const Rates* rates, const Map* idle, int steps, int to) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5);
    for (int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); row < a.users + a.items; row += stride) {
        int stamp = stamps[row];
        if (stamp >= to) continue;
        real* at = table + (int64)row * a.slots * a.stride;
        Row r;
        load_row(a, r, at, lane);
        catch_up(a, rates, idle, steps, r, row >= a.users, stamp, to, lane);
        store_row(a, r, at, lane);
        __syncwarp();
        if (lane == 0) stamps[row] = to;
    }
}
