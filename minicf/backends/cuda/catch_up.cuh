// Catch-up of untouched rows: the results of dense steps at the cost of sparse ones.
//
// The steps of a row without ratings depend on no other row. They are made later, when the row is next read.
//
// SGD, with or without momentum and decay: without a gradient, a step is a linear map of (w, v), a 2 x 2 matrix that
// depends on the step's learning rate. The product over any range of steps is the product of two entries of a table.
// Entry [b][i] is the product between step i and the middle of its block of 2^(b+1) steps: if the first and the last
// step of a range differ in bit b, and in no higher bit, the range is split at that middle. (Prefix products and their
// inverses would need no levels. But each matrix has a determinant of about `momentum`, so that the inverse of a long
// prefix is only rounding error.)
//
// Adam without l2: the moments only fade, and the weight's change is a sum over the missed steps. (C3) and (C4), which
// the Numba backend derives, compute it from a table of (C5), with one root and one division per weight for a gap of
// any length. Where (C4) is not exact enough (in the first steps of a training, or if a.expand is 0), steps are made in
// registers until it is, or until they no longer change any weight of the row; then only a power of each beta and the
// product of the decoupled decay remain. With l2, every step is made.

struct Map {  // w' = ww w + wv v,  v' = vw w + vv v
    double ww, wv, vw, vv;
};

__device__ __forceinline__ Map then(const Map& second, const Map& first) {
    return Map{second.ww * first.ww + second.wv * first.vw, second.ww * first.wv + second.wv * first.vv,
               second.vw * first.ww + second.vv * first.vw, second.vw * first.wv + second.vv * first.vv};
}

// (U1), (U3), (U4), (U5) with g = 0.
__device__ __forceinline__ Map idle_step(const Setup& a, double lr, double decay) {
    double l2 = DECAY == L2 ? decay : 0, keep = DECAY == DECOUPLED ? 1 - lr * decay : 1;
    if (KIND == SGD) return Map{keep - lr * l2, 0, 0, 0};
    double mu = a.momentum;  // v' = mu v + l2 w; w' = keep w - lr v', or - lr (l2 w + mu v') with Nesterov
    if (NESTEROV) return Map{keep - lr * (l2 + mu * l2), -lr * mu * mu, l2, mu};
    return Map{keep - lr * l2, -lr * mu, l2, mu};
}

// Each thread fills half a block of one level of the table, from the middle down or from the middle up.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    build_products(const Setup a, const Rates* rates, Map* products, int steps) {
    for (int64 id = blockIdx.x * (int64)blockDim.x + threadIdx.x;; id += (int64)gridDim.x * blockDim.x) {
        // Halves are numbered by table, then by level, the longest first.
        int64 rest = id;
        int table = 0, level = a.levels - 1;
        for (; table < 4; ++table) {
            for (level = a.levels - 1; level >= 0; --level) {
                int64 halves = (steps + ((int64)1 << level) - 1) >> level;
                if (rest < halves) break;
                rest -= halves;
            }
            if (level >= 0) break;
        }
        if (table == 4) return;
        int64 half = (int64)1 << level, from = rest * half, to = min(from + half, (int64)steps);
        Map* out = products + ((int64)table * a.levels + level) * steps;
        Map product = Map{1, 0, 0, 1};
        if (rest & 1) {
            for (int64 i = from; i < to; ++i) {
                product = then(idle_step(a, rates[i].lr, a.decay[table]), product);
                out[i] = product;
            }
        } else {
            for (int64 i = to - 1; i >= from; --i) {
                product = then(product, idle_step(a, rates[i].lr, a.decay[table]));
                out[i] = product;
            }
        }
    }
}

// The product over the steps from … to - 1.
__device__ __forceinline__ Map product_of(const Setup& a, const Map* products, int steps, int table, int from, int to) {
    int last = to - 1;
    const Map* all = products + (int64)table * a.levels * steps;
    if (from == last) return all[from];
    int level = 31 - __clz(from ^ last);
    return then(all[(int64)level * steps + last], all[(int64)level * steps + from]);
}

__device__ __forceinline__ void catch_up_linear(const Setup& a, const Map* products, int steps, Row& row, int side,
                                                int from, int to, int lane) {
    struct Moved {  // `less` is ww - 1
        real less, wv, vw, vv;
    };
    auto rounded = [](const Map& x) { return Moved{(real)(x.ww - 1), (real)x.wv, (real)x.vw, (real)x.vv}; };
    const Moved factors = rounded(product_of(a, products, steps, side, from, to));
    const Moved bias = rounded(product_of(a, products, steps, 2 + side, from, to));
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Moved& by = first_column(c, lane) + i < a.factors ? factors : bias;
            real w = row.w[c].x[i];
            if (KIND == MOMENTUM) {
                real v = row.m[c].x[i];
                row.w[c].x[i] = w + (by.less * w + by.wv * v);
                row.m[c].x[i] = by.vw * w + by.vv * v;
            } else {
                row.w[c].x[i] = w + by.less * w;
            }
        }
}

__device__ __forceinline__ double power(double x, int n) {
    double result = 1;
    for (; n; n >>= 1, x *= x)
        if (n & 1) result *= x;
    return result;
}

// x times a factor that has more digits than a `real`.
__device__ __forceinline__ real times(real x, double factor) {
    real most = (real)factor;
    return most * x + (real)(factor - most) * x;
}

// For each step: (C5) over the steps from it to the end of the call, the product of f over the steps before it, and
// whether (C4) is exact enough from it on.
struct Moments {
    double m[6], keep, exact;
};

// After n idle steps: beta1^n, beta2^n, (beta1 / sqrt beta2)^n, beta2^(-n / 2).
struct Fade {
    double first, second, ratio, grow;
};

// The number of tables of moments: without decoupled decay, one serves all weights.
__device__ __forceinline__ int moment_tables(const Setup& a) { return DECAY == DECOUPLED ? 4 : 1; }

__device__ __forceinline__ const Moments* moments_of(const Setup& a, const Map* idle, int steps, int table) {
    return (const Moments*)idle + (DECAY == DECOUPLED ? (int64)table * (steps + 1) : 0);
}

// One block per table, one thread per moment, and one thread for the products of f; each goes through all steps. It
// reads several steps ahead, so that the chain of sums does not wait for memory.
// scalars: lr, lr / (1 - beta1^t), c_t = sqrt(1 - beta2^t) and eps of each step.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    build_moments(const Setup a, const double* scalars, Moments* moments, int steps) {
    const int tables = moment_tables(a), p = threadIdx.x, RUN = 8;
    const double h = 1 / sqrt(a.beta2);
    for (int table = blockIdx.x; table < tables; table += gridDim.x) {
        const double decay = DECAY == DECOUPLED ? a.decay[table] : 0;
        Moments* out = moments + (int64)table * (steps + 1);
        for (int s = threadIdx.x; s <= steps; s += blockDim.x) {
            double c = s < steps ? scalars[4 * (int64)s + 2] : 0, x = s < steps ? scalars[4 * (int64)s + 1] * c : 0;
            for (int q = 0; q < 6; ++q, x *= c) out[s].m[q] = x;
            out[s].exact = x;  // The seventh moment only bounds the error; `exact` replaces it below.
            out[s].keep = 1;
        }
        __syncthreads();
        if (p < 7) {
            const double factor = a.beta1 * power(h, p + 1);
            double m = 0;
            for (int end = steps; end > 0; end -= RUN) {
                double x[RUN], by[RUN];
#pragma unroll
                for (int j = 0; j < RUN; ++j) {
                    const int s = max(end - 1 - j, 0);
                    x[j] = p < 6 ? out[s].m[p] : out[s].exact;
                    by[j] = decay ? factor / (1 - scalars[4 * (int64)s] * decay) : factor;
                }
#pragma unroll
                for (int j = 0; j < RUN; ++j) {
                    const int s = end - 1 - j;
                    if (s < 0) continue;
                    m = by[j] * (x[j] + m);  // (C5)
                    if (p < 6)
                        out[s].m[p] = m;
                    else
                        out[s].exact = m;
                }
            }
        } else if (p == (blockDim.x > 32 ? 32 : 7) && decay) {  // in another warp, if there is one
            double keep = 1;
            for (int first = 0; first < steps; first += RUN) {
                double f[RUN];
#pragma unroll
                for (int j = 0; j < RUN; ++j) f[j] = 1 - scalars[4 * (int64)min(first + j, steps - 1)] * decay;
#pragma unroll
                for (int j = 0; j < RUN; ++j)
                    if (first + j < steps) out[first + j + 1].keep = keep *= f[j];
            }
        }
        __syncthreads();
        const bool usable = out[steps].keep > 1e-200;  // otherwise `keep` would be divided by 0
        for (int s = threadIdx.x; s <= steps; s += blockDim.x) {
            const double m0 = out[s].m[0], m6 = out[s].exact;
            bool exact = s == steps || (usable && m0 == 0);  // learning rates of 0: no weight changes
            if (usable && m0 > 0 && m6 < 1e100) {
                double n[7];
                for (int i = 1; i < 6; ++i) n[i] = out[s].m[i] / m0;
                n[6] = m6 / m0;
                double e = n[1], e2 = e * e;
                double sixth = n[6] - 6 * e * n[5] + 15 * e2 * n[4] - 20 * e2 * e * n[3] + 15 * e2 * e2 * n[2] - 5 * e2 * e2 * e2;
                exact = sixth < a.expand * e2 * e2 * e2;
            }
            out[s].exact = exact;
        }
        __syncthreads();
    }
    Fade* fades = (Fade*)(moments + (int64)tables * (steps + 1));
    for (int n = blockIdx.x * blockDim.x + threadIdx.x; n <= steps; n += gridDim.x * blockDim.x)
        // beta2^(-n / 2) is bounded, because infinity times 0 is not 0: where it is that large, the ratio is 0.
        fades[n] = Fade{power(a.beta1, n), power(a.beta2, n), power(a.beta1 * h, n), min(power(h, n), 1e50)};
}

struct Sum {  // (C3), (C4) over a range of steps: F - 1, F sum A, eps E, C_2 … C_5
    real less, total, e, c2, c3, c4, c5;
};

__device__ __forceinline__ Sum idle_sum(const Setup& a, const Moments& begin, const Moments& end, const Fade& fade) {
    const double keep = end.keep / begin.keep;
    double factor = fade.ratio / keep, m0 = begin.m[0] - factor * end.m[0];
    if (!(m0 > 0)) return Sum{(real)(keep - 1), 0, 1, 0, 0, 0, 0};
    factor *= fade.grow;
    const double e = (begin.m[1] - factor * end.m[1]) / m0, u = 1 / e;
    // In units of e: central moments of numbers around 1.
    double n[6], scale = u / m0;
#pragma unroll
    for (int p = 2; p < 6; ++p) {
        factor *= fade.grow, scale *= u;
        n[p] = (begin.m[p] - factor * end.m[p]) * scale;
    }
    return Sum{(real)(keep - 1), (real)(keep * m0), (real)(a.eps * e), (real)(n[2] - 1), (real)(n[3] - 3 * n[2] + 2),
               (real)(n[4] - 4 * n[3] + 6 * n[2] - 3), (real)(n[5] - 5 * n[4] + 10 * n[3] - 10 * n[2] + 4)};
}

__device__ __forceinline__ void catch_up_adam(const Setup& a, const Rates* rates, const Map* idle, int steps, Row& row,
                                              int side, int from, int to, int lane) {
    bool every = DECAY == L2 && (a.decay[side] != 0 || a.decay[2 + side] != 0);
    const Moments *factors = moments_of(a, idle, steps, side), *bias = moments_of(a, idle, steps, 2 + side);
    auto exact = [&](int t) { return a.expand > 0 && factors[t].exact > 0 && bias[t].exact > 0; };
    int t = from;
    for (bool moving = true; t < to && moving && !exact(t); ++t) {
        Rates r = rates[t];
        bool mine = every || !a.fading;
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                real decay = decay_of(a, side, first_column(c, lane) + i);
                real before = row.w[c].x[i];
                if (DECAY == DECOUPLED) before -= r.lr * decay * before;
                move(a, r, row.w[c].x[i], row.m[c].x[i], row.v[c].x[i], 0, decay, 0);
                mine |= row.w[c].x[i] != before;
            }
        moving = __any_sync(ALL_LANES, mine);
    }
    if (t == to) return;
    if (exact(t)) {
        const Fade fade = ((const Fade*)((const Moments*)idle + (int64)moment_tables(a) * (steps + 1)))[to - t];
        const Sum f = idle_sum(a, factors[t], factors[to], fade);
        const Sum b = DECAY == DECOUPLED ? idle_sum(a, bias[t], bias[to], fade) : f;
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const Sum& s = first_column(c, lane) + i < a.factors ? f : b;
                real d = 1 / (sqrt(row.v[c].x[i]) + s.e), x = s.e * d;
                real w = row.w[c].x[i], series = 1 + x * x * (s.c2 - x * (s.c3 - x * (s.c4 - x * s.c5)));  // (C4)
                row.w[c].x[i] = w + (s.less * w - row.m[c].x[i] * s.total * d * series);                   // (C3)
                row.m[c].x[i] = times(row.m[c].x[i], fade.first);                                          // (U6)
                row.v[c].x[i] = times(row.v[c].x[i], fade.second);                                         // (U7)
            }
        return;
    }
    double first = power(a.beta1, to - t), second = power(a.beta2, to - t);
    double keep_factors = 1, keep_bias = 1;
    if (DECAY == DECOUPLED)
        for (; t < to; ++t) {
            keep_factors *= 1 - rates[t].lr * a.decay[side];
            keep_bias *= 1 - rates[t].lr * a.decay[2 + side];
        }
    const real factors_less = (real)(keep_factors - 1), bias_less = (real)(keep_bias - 1);
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const real less = first_column(c, lane) + i < a.factors ? factors_less : bias_less;
            row.w[c].x[i] += less * row.w[c].x[i];         // (U3)
            row.m[c].x[i] = times(row.m[c].x[i], first);   // (U6)
            row.v[c].x[i] = times(row.v[c].x[i], second);  // (U7)
        }
}

// Bring a row from `from` to `to` steps of this call. `idle` is the table of build_products or of build_moments.
__device__ __forceinline__ void catch_up(const Setup& a, const Rates* rates, const Map* idle, int steps, Row& row,
                                         int side, int from, int to, int lane) {
    if (SPARSE || from >= to) return;
    if (KIND == ADAM)
        catch_up_adam(a, rates, idle, steps, row, side, from, to, lane);
    else
        catch_up_linear(a, idle, steps, row, side, from, to, lane);
}
