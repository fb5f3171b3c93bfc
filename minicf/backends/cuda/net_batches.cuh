// Nets with large layers or batches: the host launches matrix products between these kernels.
#if NETS

extern "C" __global__ void __launch_bounds__(THREADS, 1) net_clear(real* x, int64 n) {
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) x[i] = 0;
}

// A head that is a dot product, a warp per rating. Adds to d_rows, which starts at 0.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_dot(const Setup a, const Head* heads, int head, const int* user, const int* item, const int* order,
            const float* rating, const real* table, real* d_rows, real* losses, int n, int batch, int step) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5), size = min(batch, n - step * batch);
    const int64 width = (int64)a.slots * a.stride;
    const Head& h = heads[head];
    for (int j = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); j < size; j += stride) {
        int64 at = (int64)step * batch + j;
        int row = order[at];
        const real *p = table + user[row] * width, *q = table + (a.users + item[row]) * width;
        Loss loss = loss_of(a, dot_head(a, h, p, q, lane), h.range, h.low, h.high, rating[row], size);
        real d = loss.slope * (real)h.weight;  // (B10)
        real *d_p = d_rows + (int64)2 * j * a.stride, *d_q = d_p + a.stride;
        for (int k = lane; k < a.factors; k += 32) d_p[k] += d * q[k], d_q[k] += d * p[k];  // (B2)
        if (lane == 0) {
            if (h.has_bias) d_p[a.bias_column] += d, d_q[a.bias_column] += d;  // (B3)
            losses[(int64)head * n + at] = loss.value;
        }
    }
}

// The input of a net: (F1), (F5), (F6).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_input(const Setup a, const Head* heads, int head, const int* user, const int* item, const int* order,
              const real* table, const uint64* t, real* x, int n, int batch, int step) {
    const int size = min(batch, n - step * batch), two_k = 2 * a.factors;
    const int64 width = (int64)a.slots * a.stride;
    const Head& h = heads[head];
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < (int64)size * two_k; i += (int64)gridDim.x * blockDim.x) {
        int c = (int)(i % two_k), row = order[(int64)step * batch + i / two_k];
        int table_row = c < a.factors ? user[row] : a.users + item[row];
        x[i] = table[table_row * width + c % a.factors] * dropout(h, 0, t[0] + step + 1, i);
    }
}

// After the matrix product of a layer: (F7) add the bias, (F8), (F6).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_activate(const Head* heads, int head, int layer, const real* bias, const uint64* t, real* x, int size, int step) {
    const Head& h = heads[head];
    const int units = h.width[layer + 1];
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < (int64)size * units; i += (int64)gridDim.x * blockDim.x)
        x[i] = max(x[i] + bias[i % units], (real)0) * dropout(h, layer + 1, t[0] + step + 1, i);
}

// The output unit, the loss, and the derivative by the score, a warp per rating.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_loss(const Setup a, const Head* heads, int head, const real* x, const real* weight, const real* bias,
             const int* order, const float* rating, real* delta, real* losses, int n, int batch, int step) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5), size = min(batch, n - step * batch);
    const Head& h = heads[head];
    const int in = h.width[h.layers - 1];
    for (int j = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); j < size; j += stride) {
        int64 at = (int64)step * batch + j;
        real s = 0;
        for (int i = lane; i < in; i += 32) s += x[(int64)j * in + i] * weight[i];
        s = warp_sum(s) + bias[0] + (real)h.mean;  // (F7)
        Loss loss = loss_of(a, s, h.range, h.low, h.high, rating[order[at]], size);
        if (lane == 0) delta[j] = loss.slope * (real)h.weight, losses[(int64)head * n + at] = loss.value;
    }
}

// After the matrix product of a layer back: (B6), (B8). x: inputs of the layer. d: derivatives by them, which become
// the derivatives by the sums of the layer below.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_deactivate(const Head* heads, int head, int layer, const real* x, real* d, int size) {
    const Head& h = heads[head];
    const int64 count = (int64)size * h.width[layer];
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < count; i += (int64)gridDim.x * blockDim.x)
        d[i] = x[i] > 0 ? d[i] * (real)h.keep[layer] : (real)0;
}

// (B6), (B5): add the derivatives by the input of a net to those by the rows.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_input_backward(const Setup a, const Head* heads, int head, const real* d_x, const uint64* t, real* d_rows,
                       int size, int step) {
    const int two_k = 2 * a.factors;
    const Head& h = heads[head];
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < (int64)size * two_k; i += (int64)gridDim.x * blockDim.x) {
        int c = (int)(i % two_k);
        d_rows[(2 * (i / two_k) + (c >= a.factors)) * a.stride + c % a.factors] +=
            d_x[i] * dropout(h, 0, t[0] + step + 1, i);
    }
}

// The update of dense weights, from their gradient.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_move(const Setup a, real* dense, const real* gradient, const double* decay, const Rates* rates, int n_dense, int step) {
    Nets nets = Nets{};
    nets.dense = dense, nets.decay = decay, nets.n_dense = n_dense;
    for (int x = blockIdx.x * blockDim.x + threadIdx.x; x < n_dense; x += gridDim.x * blockDim.x)
        move_dense(a, nets, rates[step], x, gradient[x]);
}

// The update of the rows of the batch: their derivatives are summed over each segment.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_rows(const Setup a, const int* first, const int* begin, const int* row_of, const int* place, real* table,
             int* stamps, const Rates* rates, const real* d_rows, int n, int batch, int step) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5), size = min(batch, n - step * batch);
    const int* part = first + (int64)step * 3;
    for (int segment = part[0] + blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); segment < part[2]; segment += stride) {
        int row = row_of[segment], side = row >= a.users, from = begin[segment], to = begin[segment + 1];
        real* at = table + (int64)row * a.slots * a.stride;
        Row r;
        Vec g[CHUNKS];
        load_row(a, r, at, lane);
        clear(g);
        for (int e = from; e < to; ++e) {
            Vec d[CHUNKS];
            int64 j = place[e] - step * batch;
            load_vec(d, d_rows + (2 * j + side) * a.stride, a.stride, lane);
            for (int c = 0; c < CHUNKS; ++c)
                for (int i = 0; i < 4; ++i) g[c].x[i] += d[c].x[i];  // (B1)
        }
        move_row(a, rates[step], r, g, side, (real)(to - from) / size, lane);
        store_row(a, r, at, lane);
        if (!SPARSE && lane == 0) stamps[row] = step + 1;
    }
}

#endif
