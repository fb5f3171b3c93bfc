// Nets: the heads of Net and Hybrid, forward and back.
//
// The tape has, for each dense layer, a matrix of the batch's inputs and a matrix of the derivatives by the outputs,
// one row per rating; the gradient of the layer's weights is their product. Dropped units are 0 on the tape, so that
// [h > 0] is true only for a unit that was kept and has slope 1: (B6) and (B8) need no other mask.

#define MAX_LAYERS 9  // most dense layers of a net, including the output layer
#define GROUP 4       // number of ratings that a block computes together: each weight read is used that often

struct Head {
    double weight, mean, low, high;
    double keep[MAX_LAYERS];      // (F6) 1 / (1 - rate) for each layer's inputs
    uint64 stream[MAX_LAYERS];    // key of each layer's dropout, without the step
    int threshold[MAX_LAYERS];    // rng.dropout_threshold, 0 without dropout
    int width[MAX_LAYERS + 1];    // number of inputs of each layer; then 1, the output
    int weights[MAX_LAYERS], biases[MAX_LAYERS];  // positions among the dense weights
    int inputs[MAX_LAYERS], deltas[MAX_LAYERS];   // positions on the tape, divided by the batch size
    int layers, range, has_bias, output;          // layers: 0 for a dot product
};

// The arguments of nets, besides the rows.
struct Nets {
    const Head* heads;
    real *dense, *tape, *d_rows;     // weights and state; tape; derivatives by both rows of each rating
    const double* decay;             // lambda of each dense weight
    const int *order, *slot;
    const float* rating;
    const uint64* t;                 // number of steps before this call
    int count, n_dense, scratch_width;
};

// (F6): the mask of unit `index`, counted through the batch's layer, in step t: 0 or 1 / (1 - rate).
__device__ __forceinline__ real dropout(const Head& h, int layer, uint64 t, int64 index) {
    if (!h.threshold[layer]) return 1;
    uint64 key = mix(h.stream[layer] + t * GOLDEN + GOLDEN);
    uint64 bits = mix(key + ((uint64)index + 1) * GOLDEN);
    return (int)(bits >> 40) >= h.threshold[layer] ? (real)h.keep[layer] : (real)0;
}

__device__ __forceinline__ real* inputs_of(const Nets& nets, const Head& h, int layer, int batch, int64 j) {
    return nets.tape + (int64)h.inputs[layer] * batch + j * h.width[layer];
}

__device__ __forceinline__ real* deltas_of(const Nets& nets, const Head& h, int layer, int batch, int64 j) {
    return nets.tape + (int64)h.deltas[layer] * batch + j * h.width[layer + 1];
}

// The score of a dot product, by a warp: (F2), (F3).
__device__ __forceinline__ real dot_head(const Setup& a, const Head& h, const real* p, const real* q, int lane) {
    real s = 0;
    for (int k = lane; k < a.factors; k += 32) s += p[k] * q[k];
    if (h.has_bias && lane == 0) s += p[a.bias_column] + q[a.bias_column];
    return warp_sum(s) + (real)h.mean;
}

// Up to GROUP ratings through all heads, and back if TRAIN, by a block. `rows` has both rows of each rating; `d_rows`
// receives the derivatives by them (B10); both are in shared memory. `out` receives the loss of each rating and head if
// TRAIN, otherwise the outputs of the head `wanted`.
template <bool TRAIN>
__device__ __forceinline__ void heads_pass(const Setup& a, const Nets& nets, const real* rows, real* d_rows, real* acts,
                                           int wanted, int64 first, int count, int size, int batch, int64 n, int64 at,
                                           uint64 t, real* out) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const int wide = nets.scratch_width;
    for (int head = 0; head < nets.count; ++head) {
        if (!TRAIN && head != wanted) continue;
        const Head& h = nets.heads[head];
        if (h.layers == 0) {
            for (int r = warp; r < count; r += warps) {
                const real *p = rows + (2 * r) * a.stride, *q = p + a.stride;
                real s = dot_head(a, h, p, q, lane);
                if (!TRAIN) {
                    if (lane == 0) out[at + r] = predicted(s, h.range, h.low, h.high);
                    continue;
                }
                Loss loss = loss_of(a, s, h.range, h.low, h.high, nets.rating[nets.order[at + r]], size);
                real d = loss.slope * (real)h.weight;  // (B10)
                real *d_p = d_rows + (2 * r) * a.stride, *d_q = d_p + a.stride;
                for (int k = lane; k < a.factors; k += 32) d_p[k] += d * q[k], d_q[k] += d * p[k];  // (B2)
                if (lane == 0) {
                    if (h.has_bias) d_p[a.bias_column] += d, d_q[a.bias_column] += d;  // (B3)
                    out[head * n + at + r] = loss.value;
                }
            }
            __syncthreads();
            continue;
        }
        real *now = acts, *then = acts + GROUP * wide;
        for (int x = threadIdx.x; x < GROUP * h.width[0]; x += blockDim.x) {
            int r = x / h.width[0], c = x % h.width[0];
            real value = 0;
            if (r < count) {
                value = rows[(2 * r + (c >= a.factors)) * a.stride + c % a.factors];  // (F5)
                if (TRAIN) {
                    value *= dropout(h, 0, t, (first + r) * h.width[0] + c);  // (F6)
                    inputs_of(nets, h, 0, batch, first + r)[c] = value;
                }
            }
            now[r * wide + c] = value;
        }
        __syncthreads();
        for (int l = 0; l + 1 < h.layers; ++l) {
            const int in = h.width[l], units = h.width[l + 1];
            const real *w = nets.dense + h.weights[l], *bias = nets.dense + h.biases[l];
            for (int m = threadIdx.x; m < units; m += blockDim.x) {
                real sum[GROUP];
#pragma unroll
                for (int r = 0; r < GROUP; ++r) sum[r] = 0;
                for (int i = 0; i < in; ++i) {
                    real x = w[(int64)i * units + m];
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) sum[r] += now[r * wide + i] * x;
                }
#pragma unroll
                for (int r = 0; r < GROUP; ++r) {
                    real value = max(sum[r] + bias[m], (real)0);  // (F7), (F8)
                    if (TRAIN && r < count) {
                        value *= dropout(h, l + 1, t, (first + r) * units + m);  // (F6)
                        inputs_of(nets, h, l + 1, batch, first + r)[m] = value;
                    }
                    then[r * wide + m] = value;
                }
            }
            __syncthreads();
            real* swap = now;
            now = then, then = swap;
        }
        const int last = h.layers - 1;
        for (int r = warp; r < count; r += warps) {
            const real* w = nets.dense + h.weights[last];
            real s = 0;
            for (int i = lane; i < h.width[last]; i += 32) s += now[r * wide + i] * w[i];
            s = warp_sum(s) + nets.dense[h.biases[last]] + (real)h.mean;  // (F7)
            if (!TRAIN) {
                if (lane == 0) out[at + r] = predicted(s, h.range, h.low, h.high);
                continue;
            }
            Loss loss = loss_of(a, s, h.range, h.low, h.high, nets.rating[nets.order[at + r]], size);
            real d = loss.slope * (real)h.weight;  // (B10)
            if (lane == 0) {
                then[r * wide] = d;
                deltas_of(nets, h, last, batch, first + r)[0] = d;
                out[head * n + at + r] = loss.value;
            }
        }
        __syncthreads();
        if (!TRAIN) continue;
        for (int l = last; l >= 0; --l) {
            const int in = h.width[l], units = h.width[l + 1];
            const real* w = nets.dense + h.weights[l];
            real* swap = now;
            now = then, then = swap;  // now: derivatives by the layer's outputs
            for (int i = threadIdx.x; i < in; i += blockDim.x) {
                real sum[GROUP];
#pragma unroll
                for (int r = 0; r < GROUP; ++r) sum[r] = 0;
                for (int m = 0; m < units; ++m) {
                    real x = w[(int64)i * units + m];
#pragma unroll
                    for (int r = 0; r < GROUP; ++r)
                        if (r < count) sum[r] += now[r * wide + m] * x;  // (B7)
                }
#pragma unroll
                for (int r = 0; r < GROUP; ++r) {
                    if (r >= count) continue;
                    if (l > 0) {
                        bool on = inputs_of(nets, h, l, batch, first + r)[i] > 0;
                        real d = on ? sum[r] * (real)h.keep[l] : (real)0;  // (B6), (B8)
                        then[r * wide + i] = d;
                        deltas_of(nets, h, l - 1, batch, first + r)[i] = d;
                    } else {
                        real d = sum[r] * dropout(h, 0, t, (first + r) * in + i);             // (B6)
                        d_rows[(2 * r + (i >= a.factors)) * a.stride + i % a.factors] += d;  // (B5)
                    }
                }
            }
            __syncthreads();
        }
    }
}

// (B7): the gradient of one dense weight, summed in the order of the batch.
__device__ __forceinline__ real dense_gradient(const Nets& nets, int x, int size, int batch) {
    real g = 0;
    for (int head = 0; head < nets.count; ++head) {
        const Head& h = nets.heads[head];
        for (int l = 0; l < h.layers; ++l) {
            const int in = h.width[l], units = h.width[l + 1], w = x - h.weights[l], b = x - h.biases[l];
            if (w >= 0 && w < in * units) {
                const real *i = inputs_of(nets, h, l, batch, 0) + w / units, *d = deltas_of(nets, h, l, batch, 0) + w % units;
                for (int j = 0; j < size; ++j) g += i[(int64)j * in] * d[(int64)j * units];
            } else if (b >= 0 && b < units) {
                const real* d = deltas_of(nets, h, l, batch, 0) + b;
                for (int j = 0; j < size; ++j) g += d[(int64)j * units];
            }
        }
    }
    return g;
}

// Every rating uses every dense weight: n_r / B is 1, and (U9), which is for tables, does not apply.
__device__ __forceinline__ void move_dense(const Setup& a, const Nets& nets, Rates r, int x, real g) {
    r.eps = (real)a.eps;
    real *w = nets.dense + x, unused = 0;
    real& m = KIND != SGD ? w[nets.n_dense] : unused;
    real& v = KIND == ADAM ? w[2 * nets.n_dense] : unused;
    real new_w = *w, new_m = m, new_v = v;
    move(a, r, new_w, new_m, new_v, g, (real)nets.decay[x], 1);
    *w = new_w, m = new_m, v = new_v;
}
