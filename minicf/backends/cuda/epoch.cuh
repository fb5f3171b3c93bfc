// Small batches: all steps of a call in one cooperative launch.
//
// Each block owns the rows r with r % blocks == block. With RESIDENT, their weights and state stay in its shared memory
// for the whole call. Each step has one barrier of the grid. Before it, owners publish the rows of the next batch in an
// exchange buffer (there are two, in turn). After it, the owner of each row of the batch reads the partners of the row
// there, and it alone updates the row. Thus each rating is computed twice, by both its owners: a dot product is cheaper
// than another barrier. Untouched rows are updated while the block waits for the barrier (`sweep`), or caught up when
// they next have a rating.

struct Work {  // arrays of the plan
    const int *first, *begin, *row_of, *next, *partner, *place;
    const unsigned char* fresh;
    const real* stars;
};

template <int RESIDENT, int NET>
__device__ __forceinline__ void run_epoch(const Setup& a, const Work& work, const Nets& nets, real* table, int* stamps,
                                          const Rates* rates, const Map* idle, real* exchange, real* losses,
                                          unsigned* barrier, int n, int batch, int steps) {
    DYNAMIC_SHARED(real, shared);
    const int blocks = gridDim.x, block = blockIdx.x, rows = a.users + a.items;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const int width = a.slots * a.stride;
    const int own = rows > block ? (rows - block + blocks - 1) / blocks : 0;  // number of rows of this block
    const int64 half = (int64)2 * batch * a.stride;                           // numbers of one exchange buffer
    // Shared memory: with NET, first the rows and units of a group of ratings; with RESIDENT, then rows and stamps.
    const int scratch = NET ? GROUP * (4 * a.stride + 2 * nets.scratch_width) : 0;
    real* resident = shared + scratch;
    int* resident_stamps = (int*)(resident + (int64)((rows + blocks - 1) / blocks) * width);

    auto row_at = [&](int row) -> real* {
        return RESIDENT ? resident + (int64)(row / blocks) * width : table + (int64)row * width;
    };
    auto stamp_of = [&](int row) -> int& { return RESIDENT ? resident_stamps[row / blocks] : stamps[row]; };

    if (RESIDENT) {
        for (int i = warp; i < own; i += warps) {
            const real* from = table + ((int64)i * blocks + block) * width;
            for (int x = lane * 4; x < width; x += 128) *(Vec*)(resident + (int64)i * width + x) = *(const Vec*)(from + x);
        }
        for (int i = threadIdx.x; i < own; i += blockDim.x) resident_stamps[i] = 0;
        __syncthreads();
    }

    // Catch up and publish the rows of this batch that are not in the batch before.
    auto publish_fresh = [&](int step) {
        const int* mine = work.first + (int64)step * (blocks + 1) + block;
        int step_first = work.first[(int64)step * (blocks + 1)];
        for (int segment = mine[0] + warp; segment < mine[1]; segment += warps) {
            if (!work.fresh[segment]) continue;
            int row = work.row_of[segment], side = row >= a.users;
            Row r;
            load_row(a, r, row_at(row), lane);
            int stamp = stamp_of(row);
            if (!SPARSE && stamp < step) {
                catch_up(a, rates, idle, steps, r, side, stamp, step, lane);
                store_row(a, r, row_at(row), lane);
                __syncwarp();  // every lane has read the stamp
                if (lane == 0) stamp_of(row) = step;
            }
            store_vec(exchange + (step & 1) * half + (int64)(segment - step_first) * a.stride, r.w, a.stride, lane);
        }
    };

    unsigned passed = blocks;  // the count at which the barrier is passed
    publish_fresh(0);
    grid_arrive(barrier);
    grid_wait(barrier, passed);

    for (int step = 0; step < steps; ++step) {
        const real* published = exchange + (step & 1) * half;
        real* publish = exchange + (~step & 1) * half;
        const int* mine = work.first + (int64)step * (blocks + 1) + block;
        const int size = min(batch, n - step * batch);
        const Rates rate = rates[step];
        if (NET) {
            // Forward and back through the heads; the tape and the derivatives by the rows are in device memory.
            const int group = max(1, min(GROUP, (size + blocks - 1) / blocks));
            real *pairs = shared, *d_pairs = shared + GROUP * 2 * a.stride, *acts = shared + GROUP * 4 * a.stride;
            for (int first = block * group; first < size; first += blocks * group) {
                const int count = min(group, size - first);
                const int64 at = (int64)step * batch + first;
                for (int x = threadIdx.x; x < count * 2 * a.stride; x += blockDim.x) {
                    int r = x / (2 * a.stride), side = x / a.stride % 2;
                    int slot = nets.slot[side * (int64)n + at + r];
                    pairs[x] = published[(int64)slot * a.stride + x % a.stride];  // (F1)
                    d_pairs[x] = 0;
                }
                __syncthreads();
                heads_pass<true>(a, nets, pairs, d_pairs, acts, 0, first, count, size, batch, n, at, nets.t[0] + step + 1,
                                 losses);
                for (int x = threadIdx.x; x < count * 2 * a.stride; x += blockDim.x)
                    nets.d_rows[(int64)first * 2 * a.stride + x] = d_pairs[x];
                __syncthreads();
            }
            grid_arrive(barrier);
            grid_wait(barrier, passed += blocks);
            for (int x = block * blockDim.x + threadIdx.x; x < nets.n_dense; x += blocks * blockDim.x)
                move_dense(a, nets, rate, x, dense_gradient(nets, x, size, batch));
        }
        for (int segment = mine[0] + warp; segment < mine[1]; segment += warps) {
            int row = work.row_of[segment], side = row >= a.users;
            int from = work.begin[segment], to = work.begin[segment + 1];
            Row r;
            Vec g[CHUNKS];
            load_row(a, r, row_at(row), lane);  // (F1)
            clear(g);
            for (int e0 = from; NET && e0 < to; ++e0) {
                Vec d[CHUNKS];
                int64 j = work.place[e0] - step * batch;
                load_vec(d, nets.d_rows + (2 * j + side) * a.stride, a.stride, lane);
                for (int c = 0; c < CHUNKS; ++c)
                    for (int i = 0; i < 4; ++i) g[c].x[i] += d[c].x[i];  // (B1)
            }
            for (int e0 = from; !NET && e0 < to; e0 += 32) {
                bool has = e0 + lane < to;
                int partners = has ? work.partner[e0 + lane] : 0;
                real stars = has ? work.stars[e0 + lane] : 0, values = 0;
                int count = min(32, to - e0);
                for (int j = 0; j < count; ++j) {
                    int slot = __shfl_sync(ALL_LANES, partners, j);
                    real star = __shfl_sync(ALL_LANES, stars, j);
                    Vec q[CHUNKS];
                    load_vec(q, published + (int64)slot * a.stride, a.stride, lane);
                    real s = warp_sum(score_part(a, r.w, q, lane)) + (real)a.mean;  // (F2), (F3)
                    Loss loss = loss_of(a, s, RANGE, a.low, a.high, star, size);    // (F4), (F9), (B9), (B4)
                    add_gradient(a, g, q, loss.slope, lane);                        // (B2), (B3), (B1)
                    if (lane == j) values = loss.value;
                }
                if (side == 0 && has) losses[work.place[e0 + lane]] = values;
            }
            move_row(a, rate, r, g, side, (real)(to - from) / size, lane);
            store_row(a, r, row_at(row), lane);
            if (!SPARSE && lane == 0) stamp_of(row) = step + 1;
            int next = work.next[segment];
            if (next >= 0) store_vec(publish + (int64)next * a.stride, r.w, a.stride, lane);
        }
        if (step + 1 < steps) publish_fresh(step + 1);
        grid_arrive(barrier);
        // While the other blocks arrive: the steps that this block's rows have missed.
        if (!SPARSE && a.sweep && (step + 1) % a.sweep == 0) {
            if (KIND == ADAM && RESIDENT) {
                // Threads work on columns, not warps on rows: no lane is idle in the padding.
                int quads = a.stride / 4;
                for (int x = threadIdx.x; x < own * quads; x += blockDim.x) {
                    int i = x / quads, column = x % quads * 4, side = i * blocks + block >= a.users;
                    int behind = resident_stamps[i];
                    if (behind > step) continue;
                    real* at = resident + (int64)i * width + column;
                    Vec w = *(Vec*)at, m = *(Vec*)(at + a.stride), v = *(Vec*)(at + 2 * a.stride);
                    for (; behind <= step; ++behind)
                        for (int k = 0; k < 4; ++k)
                            move(a, rates[behind], w.x[k], m.x[k], v.x[k], 0, decay_of(a, side, column + k), 0);
                    put(at, w), put(at + a.stride, m), put(at + 2 * a.stride, v);
                }
                __syncthreads();
                for (int i = threadIdx.x; i < own; i += blockDim.x) resident_stamps[i] = step + 1;
            } else {
                for (int i = warp; i < own; i += warps) {
                    int row = i * blocks + block, stamp = stamp_of(row);
                    if (stamp > step) continue;
                    Row r;
                    load_row(a, r, row_at(row), lane);
                    catch_up(a, rates, idle, steps, r, row >= a.users, stamp, step + 1, lane);
                    store_row(a, r, row_at(row), lane);
                    __syncwarp();
                    if (lane == 0) stamp_of(row) = step + 1;
                }
            }
        }
        grid_wait(barrier, passed += blocks);
    }

    for (int i = warp; i < own; i += warps) {
        int row = i * blocks + block, stamp = SPARSE ? steps : stamp_of(row);
        if (!RESIDENT && stamp == steps) continue;
        Row r;
        load_row(a, r, row_at(row), lane);
        catch_up(a, rates, idle, steps, r, row >= a.users, stamp, steps, lane);
        store_row(a, r, table + (int64)row * width, lane);
    }
}

#define EPOCH_PARAMETERS                                                                                             \
    const Setup a, const int *first, const int *begin, const int *row_of, const int *next, const int *partner,       \
        const int *place, const unsigned char *fresh, const real *stars, real *table, int *stamps,                   \
        const Rates *rates, const Map *idle, real *exchange, real *losses, unsigned *barrier, int n, int batch, \
        int steps
#define EPOCH(resident, net, nets)                                                                                    \
    run_epoch<resident, net>(a, Work{first, begin, row_of, next, partner, place, fresh, stars}, nets, table, stamps, \
                             rates, idle, exchange, losses, barrier, n, batch, steps)
#define NET_PARAMETERS                                                                                          \
    const Head *heads, real *dense, real *tape, real *d_rows, const double *decay, const int *order, const int *slot, \
        const float *rating, const uint64 *t, int count, int n_dense, int scratch_width
#define ALL_NETS Nets{heads, dense, tape, d_rows, decay, order, slot, rating, t, count, n_dense, scratch_width}

extern "C" __global__ void __launch_bounds__(THREADS, 1) epoch_resident(EPOCH_PARAMETERS) { EPOCH(1, 0, Nets{}); }

extern "C" __global__ void __launch_bounds__(THREADS, 1) epoch_touched(EPOCH_PARAMETERS) { EPOCH(0, 0, Nets{}); }

#if NETS
extern "C" __global__ void __launch_bounds__(THREADS, 1) epoch_net_resident(EPOCH_PARAMETERS, NET_PARAMETERS) {
    EPOCH(1, 1, ALL_NETS);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) epoch_net_touched(EPOCH_PARAMETERS, NET_PARAMETERS) {
    EPOCH(0, 1, ALL_NETS);
}
#endif
