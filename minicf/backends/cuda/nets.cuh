// --- nets: the heads of Net and Hybrid ------------------------------------------------------------------------------
//
// A net's numbers of a batch lie on a tape: for each dense layer a matrix of its inputs and one of the derivatives by
// its outputs, one row a rating, so that a weight's gradient is a product of two of them. Dropped units are 0 there, so
// that [h > 0] says both that the unit was kept and that its slope is 1: (B6) and (B8) need nothing else.

#define MAX_LAYERS 9  // dense layers of a net, the output layer among them
#define GROUP 4       // ratings that a block takes through a net together: so often each weight that is read is used

struct Head {
    double weight, mean, low, high;
    double keep[MAX_LAYERS];      // (F6) 1 / (1 - rate) of each layer's inputs
    uint64 stream[MAX_LAYERS];    // key of each layer's dropout, the step left out
    int threshold[MAX_LAYERS];    // rng.dropout_threshold, 0 for none
    int width[MAX_LAYERS + 1];    // inputs of each layer; the last one's output, 1
    int weights[MAX_LAYERS], biases[MAX_LAYERS];  // where they stand among the dense weights
    int inputs[MAX_LAYERS], deltas[MAX_LAYERS];   // where they stand on the tape, times the batch size
    int layers, range, has_bias, output;          // layers: 0 for a dot product
};

// What a kernel needs of the nets besides the rows.
struct Nets {
    const Head* heads;
    real *dense, *tape, *d_rows;     // weights and state; the tape; derivatives by the rows of each rating, both sides
    const double* decay;             // lambda of each dense weight
    const int *order, *slot;
    const float* rating;
    const uint64* t;                 // steps made before this call
    int count, n_dense, scratch_width;
};

// (F6): 0 or 1 / (1 - rate), for unit `index` of the batch's layer in step t.
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

// A dot product's score, by a warp: (F2), (F3).
__device__ __forceinline__ real dot_head(const Setup& a, const Head& h, const real* p, const real* q, int lane) {
    real s = 0;
    for (int k = lane; k < a.factors; k += 32) s += p[k] * q[k];
    if (h.has_bias && lane == 0) s += p[a.bias_column] + q[a.bias_column];
    return warp_sum(s) + (real)h.mean;
}

// A block takes up to GROUP ratings through all heads, and back if TRAIN. `rows` holds both rows of each rating, and
// `d_rows` collects the derivatives by them (B10); both are in shared memory. Without TRAIN, `out` gets the predictions
// of head `wanted`; with it, the squared errors of all heads.
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

// (B7): the gradient of one dense weight, summed over the batch in its order.
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

// Dense layers are named by every rating: n_r / B is 1, and (U9) is for tables.
__device__ __forceinline__ void move_dense(const Setup& a, const Nets& nets, Rates r, int x, real g) {
    r.eps = (real)a.eps;
    real *w = nets.dense + x, unused = 0;
    real& m = KIND != SGD ? w[nets.n_dense] : unused;
    real& v = KIND == ADAM ? w[2 * nets.n_dense] : unused;
    real new_w = *w, new_m = m, new_v = v;
    move(a, r, new_w, new_m, new_v, g, (real)nets.decay[x], 1);
    *w = new_w, m = new_m, v = new_v;
}
