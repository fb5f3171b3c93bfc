// All CUDA of minicf. Compiled at run time by cupy_gpu.py, which is also the only caller.
//
// The labels (F1) … (F10), (B1) …, (U1) … are those of ops.py and optim.py, where each equation is derived.
//
// Layout. Users and items share one table of rows, users first. A row holds its factors, its bias in the column after
// them (if the model has biases), and zeros up to a multiple of four, so that every access moves 16 bytes:
//
//     row = [ weight | momentum or first moment | second moment ], each of `stride` numbers
//
// A warp works on a row; lane l holds the columns 4 l … 4 l + 3 of each chunk of 128. The bias needs no code of its own:
// its partner's column counts as 1 in (F3) and (B3).
//
// Order. Nothing here depends on who computes it: every row of a batch has one owner, which adds up the derivatives of
// its segment of sorted ratings in the order of the batch. The same bits come out of any number of blocks and threads.

#ifndef REAL
#define REAL float
#endif
#ifndef CHUNKS  // how many chunks of 128 columns a row has
#define CHUNKS 1
#endif
#ifndef THREADS  // at most so many in a block. Bounds name 1 block a processor: left to itself, ptxas spills for a second.
#define THREADS 256
#endif
#ifndef HALF  // 1: per-rating SGD keeps rows in half precision; the arithmetic stays `real`
#define HALF 0
#endif
#ifndef NETS  // 0 leaves their kernels out
#define NETS 1
#endif
// What is known when a program is compiled is a constant; the CPU tests leave it open, to share one build.
#ifndef KIND
#define KIND a.kind
#endif
#ifndef DECAY
#define DECAY a.decay_kind
#endif
#ifndef NESTEROV
#define NESTEROV a.nesterov
#endif
#ifndef SPARSE
#define SPARSE a.sparse
#endif
#ifndef RANGE
#define RANGE a.range
#endif
#ifndef EMULATED
extern __shared__ __align__(16) unsigned char shared_bytes[];
#define DYNAMIC_SHARED(type, name) type* name = (type*)shared_bytes
#define GRID_ARRIVED()  // for the tests' race checker
#define GRID_PASSED()
#endif

typedef REAL real;
typedef long long int64;
typedef unsigned long long uint64;
#define ALL_LANES 0xffffffffu

enum { SGD, MOMENTUM, ADAM };
enum { NO_DECAY, L2, PER_RATING, DECOUPLED };

struct __align__(16) Vec {
    real x[4];
};

struct Setup {
    double mean, low, high, eps;    // (F3), (F4), (U8)
    double momentum, beta1, beta2;  // (U4), (U6), (U7)
    double decay[4];                // lambda of user factors, item factors, user biases, item biases
    double expand;                  // largest relative error of (C4) that will do; 0: Adam's idle steps are made, not summed
    int kind, decay_kind, nesterov, sparse, range;
    int users, items, factors, bias_column, stride, slots;
    int sweep;   // bring every row up to date each so many steps; 0: only at the end
    int fading;  // beta1^2 < beta2: Adam's idle moves shrink
    int levels;  // of the table of products
};

// The numbers of one step: learning rate, and Adam's scalars of (U8), (U9).
struct __align__(16) Rates {
    real lr, rate, root, eps;
};

struct Row {
    Vec w[CHUNKS], m[CHUNKS], v[CHUNKS];
};

// --- rows ----------------------------------------------------------------------------------------------------------

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

// A store of 16 bytes, said outright: loads are merged by the compiler, but it wrote moments number by number.
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

// --- one weight, one step ------------------------------------------------------------------------------------------
//
// Here and below what is near 1 is taken as its difference from 1: float32 holds 0.999 to 1.3e-8 only, which would move
// every second moment by 1.3e-5 of itself.

// `share` is n_r / B. With g = 0 and share = 0 this is the step of a row that the batch does not name.
__device__ __forceinline__ void move(const Setup& a, const Rates& r, real& w, real& m, real& v, real g, real decay,
                                     real share) {
    if (DECAY == L2) g += decay * w;                  // (U1)
    if (DECAY == PER_RATING) g += decay * share * w;  // (U2)
    if (DECAY == DECOUPLED) w -= r.lr * decay * w;    // (U3)
    if (KIND == ADAM) {
        m += (real)(1 - a.beta1) * (g - m);            // (U6)
        v += (real)(1 - a.beta2) * (g * g - v);        // (U7)
        w -= r.rate * m / (sqrt(v) / r.root + r.eps);  // (U8), (U9)
    } else if (KIND == MOMENTUM) {
        real mu = (real)a.momentum;
        m = mu * m + g;                            // (U4)
        w -= r.lr * (NESTEROV ? g + mu * m : m);   // (U5)
    } else {
        w -= r.lr * g;  // (U5)
    }
}

__device__ __forceinline__ void move_row(const Setup& a, const Rates& r, Row& row, const Vec* g, int side, real share,
                                         int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            move(a, r, row.w[c].x[i], row.m[c].x[i], row.v[c].x[i], g[c].x[i],
                 decay_of(a, side, first_column(c, lane) + i), share);
}

// --- catch-up: dense results at sparse cost ------------------------------------------------------------------------
//
// A row that no batch names moves by itself, so its steps can be made up when it is next read.
//
// SGD, with or without momentum and decay: without a gradient a step is linear in (w, v), a 2 x 2 matrix of the step's
// learning rate. The product over any range of steps is one entry of a table times another: entry [b][i] holds the
// product between i and the middle of its block of 2^(b+1) steps, so that a range whose first and last step differ in
// bit b, and in none above, is split by exactly that middle. (Prefix products and inverses would need no levels, but
// each matrix has determinant about `momentum`: the inverse of a long prefix is all rounding error.)
//
// Adam without l2: the moments only fade, and what they still move is a sum over the missed steps: (C3) and (C4), which
// numba_kernels.py derives, take it from a table of (C5), one root and one division a weight however long the gap. Where
// (C4) is not exact enough (in the first steps of all, or a.expand is 0), steps are made in registers until it is, or
// until they stop to change any weight of the row; what is left then is a power of each beta, and the product of the
// decoupled decay. With l2 every step is made.

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

// A thread fills half a block of one level of the table: from the middle down, or from the middle up.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    build_products(const Setup a, const Rates* rates, Map* products, int steps) {
    for (int64 id = blockIdx.x * (int64)blockDim.x + threadIdx.x;; id += (int64)gridDim.x * blockDim.x) {
        // Halves are numbered table by table, level by level, the long ones first.
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

// The product of the steps from … to - 1.
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

// x by a factor of which its kind of number holds the beginning only.
__device__ __forceinline__ real times(real x, double factor) {
    real most = (real)factor;
    return most * x + (real)(factor - most) * x;
}

// (C5) of the steps from one on to the end of the call, the product of f over the steps before, and whether (C4) is
// exact enough from here on.
struct Moments {
    double m[6], keep, exact;
};

// After n idle steps: beta1^n, beta2^n, (beta1 / sqrt beta2)^n, beta2^(-n / 2).
struct Fade {
    double first, second, ratio, grow;
};

// Without decoupled decay all tables fade alike.
__device__ __forceinline__ int moment_tables(const Setup& a) { return DECAY == DECOUPLED ? 4 : 1; }

__device__ __forceinline__ const Moments* moments_of(const Setup& a, const Map* idle, int steps, int table) {
    return (const Moments*)idle + (DECAY == DECOUPLED ? (int64)table * (steps + 1) : 0);
}

// A block a table: a thread goes through all steps for each moment, and one for the products of f. They read a run of
// steps before they go through it, so that the chain waits for its own sums alone.
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
            out[s].exact = x;  // The seventh moment only bounds the error, and gives its place to what comes of it.
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
        } else if (p == (blockDim.x > 32 ? 32 : 7) && decay) {  // beside the others, where there is another warp
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
        const bool usable = out[steps].keep > 1e-200;  // else there is nothing to divide by
        for (int s = threadIdx.x; s <= steps; s += blockDim.x) {
            const double m0 = out[s].m[0], m6 = out[s].exact;
            bool exact = s == steps || (usable && m0 == 0);  // learning rates of 0: nothing moves
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
        // A bound for beta2^(-n / 2), since infinity times 0 is not 0: where it is that large, the ratio is 0.
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
    // In units of e, so that the central moments are of numbers around 1.
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

// Bring a row that has made `from` steps of this call to `to` steps. `idle` is what build_products or build_moments made.
__device__ __forceinline__ void catch_up(const Setup& a, const Rates* rates, const Map* idle, int steps, Row& row,
                                         int side, int from, int to, int lane) {
    if (SPARSE || from >= to) return;
    if (KIND == ADAM)
        catch_up_adam(a, rates, idle, steps, row, side, from, to, lane);
    else
        catch_up_linear(a, idle, steps, row, side, from, to, lane);
}

// --- one rating ----------------------------------------------------------------------------------------------------

// A lane's part of (F2) and (F3). In the padding both rows are 0. The bias columns are added in one go, so that both
// owners of a rating, who call the other's row q, get the same bits.
__device__ __forceinline__ real score_part(const Setup& a, const Vec* p, const Vec* q, int lane) {
    real s = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            real x = p[c].x[i], y = q[c].x[i];
            s += first_column(c, lane) + i < a.factors ? x * y : x + y;
        }
    return s;
}

__device__ __forceinline__ real sigmoid(real s) { return (real)0.5 * (1 + tanh((real)0.5 * s)); }

// (F4)
__device__ __forceinline__ real predicted(real s, int range, double low, double high) {
    return range ? (real)low + (real)(high - low) * sigmoid(s) : s;
}

// (F4), (F9) forward, (B9), (B4) back: the derivative of the loss by the score.
__device__ __forceinline__ real d_score(real s, int range, double low, double high, real rating, int batch,
                                        real* squared) {
    real error = predicted(s, range, low, high) - rating;
    *squared = error * error;
    real d = 2 * error / batch;
    if (range) {
        real g = sigmoid(s);
        d *= (real)(high - low) * g * (1 - g);
    }
    return d;
}

// (B2), (B3), (B1): add one rating's share to the gradient of a row.
__device__ __forceinline__ void add_gradient(const Setup& a, Vec* g, const Vec* q, real d, int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int column = first_column(c, lane) + i;
            g[c].x[i] += d * (column == a.bias_column ? (real)1 : column < a.factors ? q[c].x[i] : (real)0);
        }
}

__device__ __forceinline__ void clear(Vec* g) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
        for (int i = 0; i < 4; ++i) g[c].x[i] = 0;
}

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

#define GOLDEN 0x9E3779B97F4A7C15ull

// rng.py
__device__ __forceinline__ uint64 mix(uint64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

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
                real star = nets.rating[nets.order[at + r]], error;
                real d = d_score(s, h.range, h.low, h.high, star, size, &error) * (real)h.weight;  // (B10)
                real *d_p = d_rows + (2 * r) * a.stride, *d_q = d_p + a.stride;
                for (int k = lane; k < a.factors; k += 32) d_p[k] += d * q[k], d_q[k] += d * p[k];  // (B2)
                if (lane == 0) {
                    if (h.has_bias) d_p[a.bias_column] += d, d_q[a.bias_column] += d;  // (B3)
                    out[head * n + at + r] = error;
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
            real star = nets.rating[nets.order[at + r]], error;
            real d = d_score(s, h.range, h.low, h.high, star, size, &error) * (real)h.weight;  // (B10)
            if (lane == 0) {
                then[r * wide] = d;
                deltas_of(nets, h, last, batch, first + r)[0] = d;
                out[head * n + at + r] = error;
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

// --- the order of an epoch ------------------------------------------------------------------------------------------

// rng.permutation: a random key for each position, with the position in its low bits, so that no two are ever equal.
extern "C" __global__ void __launch_bounds__(THREADS, 1) order_keys(uint64 stream, uint64* keys, int n, int bits) {
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x)
        keys[i] = mix(stream + ((uint64)i + 1) * GOLDEN) >> bits << bits | (uint64)i;
}

// Of the sorted keys.
extern "C" __global__ void __launch_bounds__(THREADS, 1) order_of(const uint64* keys, int* order, int n, int bits) {
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x)
        order[i] = (int)(keys[i] & (((uint64)1 << bits) - 1));
}

// --- the plan of a call: which rows each batch names, and where --------------------------------------------------
//
// Every rating of a batch is an element of two segments, its user's and its item's. Elements are sorted by
// (step, row, position in the batch), packed into one 64-bit key, hence never equal: any sort gives this order.
// `spread` orders rows by the block that owns them, so that a block's segments of a step lie together.

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

// The first element of a step; every step before it is a full batch.
__device__ __forceinline__ int64 step_begin(const Plan& p, int64 step) {
    return min(2 * (int64)p.batch * step, 2 * (int64)p.n);
}

// `ordinal` counts the heads up to and including each element: its segment's number, from 1.
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

// The first element of a step whose row, spread, is at least `target`.
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

// The slot that a row has in the batch of a step, or -1.
__device__ __forceinline__ int slot_in(const Plan& p, const uint64* keys, const int* ordinal, int64 step, int64 target) {
    if (step < 0 || step >= p.steps) return -1;
    int64 e = lower_bound(p, keys, step, target);
    if (e == step_begin(p, step + 1) || (int64)(keys[e] >> p.bits) != step * span(p) + target) return -1;
    return ordinal[e] - ordinal[step_begin(p, step)];
}

// partner: of a rating's two rows the other one, as a slot of the batch; with `by_side` a user's element names the
// item's row of the table. next, fresh: where the segment's row stands in the next batch; whether it is new in this.
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

// first[step][part]: the first segment of a part (a block's rows; users or items) in a step; one more ends the last.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    plan_first(const Plan p, const uint64* keys, const int* ordinal, int* first) {
    int64 count = (int64)p.steps * (p.parts + 1);
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < count; i += (int64)gridDim.x * blockDim.x) {
        int64 step = i / (p.parts + 1), part = i % (p.parts + 1);
        int64 target = p.by_side ? (part == 0 ? 0 : part == 1 ? p.users : p.rows) : part * rows_per_part(p);
        int64 e = lower_bound(p, keys, step, target);
        // Past the step's end: one more than its last segment. Keys grow with e, so the last element's ordinal is it.
        first[i] = e == step_begin(p, step + 1) ? ordinal[e - 1] : ordinal[e] - 1;
    }
}

// --- small batches: an epoch in one cooperative launch ------------------------------------------------------------
//
// Each block owns the rows r with r % blocks == block. With RESIDENT they stay in its shared memory, weights and state,
// for the whole call. Per step there is one grid-wide barrier. Before it, owners publish the rows that the next batch
// names in an exchange buffer (two of them, in turn); after it, the owner of each row of the batch reads the rows on
// the other side of its ratings there, and alone moves its row. A rating is so computed twice, by both its owners: a
// dot product is cheaper than another barrier. Rows that no batch names are moved while the barrier is waited for
// (`sweep`), or caught up when they are next named.

__device__ __forceinline__ void grid_arrive(unsigned* barrier) {
    GRID_ARRIVED();
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(barrier, 1u);
    }
}

__device__ __forceinline__ void grid_wait(unsigned* barrier, unsigned target) {
    if (threadIdx.x == 0) {
        while (*(volatile unsigned*)barrier < target) __nanosleep(20);
        __threadfence();
    }
    __syncthreads();
    GRID_PASSED();
}

struct Work {  // the plan's arrays, as the training kernels read them
    const int *first, *begin, *row_of, *next, *partner, *place;
    const unsigned char* fresh;
    const real* stars;
};

template <int RESIDENT, int NET>
__device__ __forceinline__ void run_epoch(const Setup& a, const Work& work, const Nets& nets, real* table, int* stamps,
                                          const Rates* rates, const Map* idle, real* exchange, real* squared,
                                          unsigned* barrier, int n, int batch, int steps) {
    DYNAMIC_SHARED(real, shared);
    const int blocks = gridDim.x, block = blockIdx.x, rows = a.users + a.items;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const int width = a.slots * a.stride;
    const int own = rows > block ? (rows - block + blocks - 1) / blocks : 0;  // how many rows this block owns
    const int64 half = (int64)2 * batch * a.stride;                           // of the exchange buffer
    // Shared memory: with NET first what a group of ratings needs; then, if RESIDENT, the block's rows and stamps.
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

    // Rows of the batch of `step` that the batch before does not name: catch up, publish.
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

    unsigned passed = blocks;  // what the barrier counts to
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
            // Forward and back through the heads; the tape and the derivatives by the rows go to memory.
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
                                 squared);
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
                real stars = has ? work.stars[e0 + lane] : 0, errors = 0;
                int count = min(32, to - e0);
                for (int j = 0; j < count; ++j) {
                    int slot = __shfl_sync(ALL_LANES, partners, j);
                    real star = __shfl_sync(ALL_LANES, stars, j);
                    Vec q[CHUNKS];
                    load_vec(q, published + (int64)slot * a.stride, a.stride, lane);
                    real s = warp_sum(score_part(a, r.w, q, lane)) + (real)a.mean, error;  // (F2), (F3)
                    real d = d_score(s, RANGE, a.low, a.high, star, size, &error);         // (F4), (F9), (B9), (B4)
                    add_gradient(a, g, q, d, lane);                                        // (B2), (B3), (B1)
                    if (lane == j) errors = error;
                }
                if (side == 0 && has) squared[work.place[e0 + lane]] = errors;
            }
            move_row(a, rate, r, g, side, (real)(to - from) / size, lane);
            store_row(a, r, row_at(row), lane);
            if (!SPARSE && lane == 0) stamp_of(row) = step + 1;
            int next = work.next[segment];
            if (next >= 0) store_vec(publish + (int64)next * a.stride, r.w, a.stride, lane);
        }
        if (step + 1 < steps) publish_fresh(step + 1);
        grid_arrive(barrier);
        // While the others arrive: rows of this block that are behind.
        if (!SPARSE && a.sweep && (step + 1) % a.sweep == 0) {
            if (KIND == ADAM && RESIDENT) {
                // Column by column, so that no lane is idle in the padding of a warp.
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
        const Rates *rates, const Map *idle, real *exchange, real *squared, unsigned *barrier, int n, int batch, \
        int steps
#define EPOCH(resident, net, nets)                                                                                    \
    run_epoch<resident, net>(a, Work{first, begin, row_of, next, partner, place, fresh, stars}, nets, table, stamps, \
                             rates, idle, exchange, squared, barrier, n, batch, steps)
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

// --- large batches: two passes over segments, each row moved by the warp that summed its gradient ---------------------

// Rows that the batch names and that are behind: of the parts (0 users, 1 items) from `from_part` on.
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

// Forward, loss and the users' half of the update. The users' rows as they were go to `before`, for the items' half.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    batch_users(const Setup a, const int* first, const int* begin, const int* row_of, const int* partner,
                const int* place, const real* stars, real* table, int* stamps, const Rates* rates, const Map* idle,
                real* before, real* d_s, real* squared, int n, int batch, int steps, int step) {
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
            real rating = has ? stars[e0 + lane] : 0, errors = 0, derivatives = 0;
            int count = min(32, to - e0);
            for (int j = 0; j < count; ++j) {
                int other = __shfl_sync(ALL_LANES, partners, j);
                real star = __shfl_sync(ALL_LANES, rating, j);
                Vec q[CHUNKS];
                load_vec(q, table + other * width, a.stride, lane);
                real s = warp_sum(score_part(a, r.w, q, lane)) + (real)a.mean, error;  // (F2), (F3)
                real d = d_score(s, RANGE, a.low, a.high, star, size, &error);         // (F4), (F9), (B9), (B4)
                add_gradient(a, g, q, d, lane);                                        // (B2), (B3), (B1)
                if (lane == j) errors = error, derivatives = d;
            }
            if (has) {
                squared[place[e0 + lane]] = errors;
                d_s[place[e0 + lane] - step * batch] = derivatives;
            }
        }
        move_row(a, rates[step], r, g, 0, (real)(to - from) / size, lane);
        store_row(a, r, table + row * width, lane);
        __syncwarp();
        if (!SPARSE && lane == 0) stamps[row] = step + 1;
    }
}

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
            real derivatives = has ? d_s[place[e0 + lane] - step * batch] : 0;
            int count = min(32, to - e0);
            for (int j = 0; j < count; ++j) {
                int other = __shfl_sync(ALL_LANES, partners, j);
                real d = __shfl_sync(ALL_LANES, derivatives, j);
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

// All rows, to `to` steps.
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

#if NETS
// --- large layers or batches: matrix products between these ----------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS, 1) net_clear(real* x, int64 n) {
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) x[i] = 0;
}

// d_rows starts at 0; a dot product adds to it, a warp a rating.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_dot(const Setup a, const Head* heads, int head, const int* user, const int* item, const int* order,
            const float* rating, const real* table, real* d_rows, real* squared, int n, int batch, int step) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5), size = min(batch, n - step * batch);
    const int64 width = (int64)a.slots * a.stride;
    const Head& h = heads[head];
    for (int j = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); j < size; j += stride) {
        int64 at = (int64)step * batch + j;
        int row = order[at];
        const real *p = table + user[row] * width, *q = table + (a.users + item[row]) * width;
        real s = dot_head(a, h, p, q, lane), error;
        real d = d_score(s, h.range, h.low, h.high, rating[row], size, &error) * (real)h.weight;  // (B10)
        real *d_p = d_rows + (int64)2 * j * a.stride, *d_q = d_p + a.stride;
        for (int k = lane; k < a.factors; k += 32) d_p[k] += d * q[k], d_q[k] += d * p[k];  // (B2)
        if (lane == 0) {
            if (h.has_bias) d_p[a.bias_column] += d, d_q[a.bias_column] += d;  // (B3)
            squared[(int64)head * n + at] = error;
        }
    }
}

// (F1), (F5), (F6): a net's input.
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

// After a product: (F7) add the bias, (F8), (F6).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_activate(const Head* heads, int head, int layer, const real* bias, const uint64* t, real* x, int size, int step) {
    const Head& h = heads[head];
    const int units = h.width[layer + 1];
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < (int64)size * units; i += (int64)gridDim.x * blockDim.x)
        x[i] = max(x[i] + bias[i % units], (real)0) * dropout(h, layer + 1, t[0] + step + 1, i);
}

// The output unit, the loss, and the derivative by the score, a warp a rating.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_loss(const Head* heads, int head, const real* x, const real* weight, const real* bias, const int* order,
             const float* rating, real* delta, real* squared, int n, int batch, int step) {
    const int lane = threadIdx.x & 31, stride = gridDim.x * (blockDim.x >> 5), size = min(batch, n - step * batch);
    const Head& h = heads[head];
    const int in = h.width[h.layers - 1];
    for (int j = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); j < size; j += stride) {
        int64 at = (int64)step * batch + j;
        real s = 0, error;
        for (int i = lane; i < in; i += 32) s += x[(int64)j * in + i] * weight[i];
        s = warp_sum(s) + bias[0] + (real)h.mean;  // (F7)
        real d = d_score(s, h.range, h.low, h.high, rating[order[at]], size, &error) * (real)h.weight;
        if (lane == 0) delta[j] = d, squared[(int64)head * n + at] = error;
    }
}

// After a product: (B6), (B8). x: the layer's inputs; d: the derivatives by them, which become those by what they are of.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_deactivate(const Head* heads, int head, int layer, const real* x, real* d, int size) {
    const Head& h = heads[head];
    const int64 count = (int64)size * h.width[layer];
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < count; i += (int64)gridDim.x * blockDim.x)
        d[i] = x[i] > 0 ? d[i] * (real)h.keep[layer] : (real)0;
}

// (B6), (B5): the derivatives by a net's input join those by the rows.
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

// Every dense weight, its gradient known.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    net_move(const Setup a, real* dense, const real* gradient, const double* decay, const Rates* rates, int n_dense, int step) {
    Nets nets = Nets{};
    nets.dense = dense, nets.decay = decay, nets.n_dense = n_dense;
    for (int x = blockIdx.x * blockDim.x + threadIdx.x; x < n_dense; x += gridDim.x * blockDim.x)
        move_dense(a, nets, rates[step], x, gradient[x]);
}

// Every row that the batch names: its segment of d_rows summed, and moved.
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
// --- losses --------------------------------------------------------------------------------------------------------

#define LOSS_THREADS 256  // fixed: the order of the sums must not depend on the launch

__device__ __forceinline__ double block_sum(double x, double* shared) {
    shared[threadIdx.x] = x;
    __syncthreads();
    for (int half = LOSS_THREADS / 2; half; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    double sum = shared[0];
    __syncthreads();
    return sum;
}

// (F9) times B: the squared errors of each step and head.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
    step_losses(const real* squared, double* sums, int n, int batch, int steps, int heads) {
    DYNAMIC_SHARED(double, shared);
    for (int64 i = blockIdx.x; i < (int64)steps * heads; i += gridDim.x) {
        int64 step = i / heads, head = i % heads, from = step * batch, to = min(from + batch, (int64)n);
        double sum = 0;
        for (int64 j = from + threadIdx.x; j < to; j += LOSS_THREADS) sum += squared[head * n + j];
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) sums[i] = sum;
    }
}

// out: the sum of each head over the steps before the first that failed, and that step (or -1).
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) call_loss(const double* sums, double* out, int steps, int heads) {
    DYNAMIC_SHARED(double, shared);
    int failed = steps;
    for (int i = threadIdx.x; i < steps * heads; i += LOSS_THREADS)
        if (!isfinite((real)sums[i])) failed = min(failed, i / heads);
    shared[threadIdx.x] = failed;
    __syncthreads();
    for (int half = LOSS_THREADS / 2; half; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] = min(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    failed = (int)shared[0];
    __syncthreads();
    for (int head = 0; head < heads; ++head) {
        double sum = 0;
        for (int i = threadIdx.x; i < failed; i += LOSS_THREADS) sum += sums[(int64)i * heads + head];
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) out[head] = sum;
    }
    if (threadIdx.x == 0) out[heads] = failed < steps ? failed : -1;
}

// --- per-rating SGD ------------------------------------------------------------------------------------------------
//
// A step for every rating. Ratings are cut into tiles, `workers` blocks of users by as many blocks of items. In a round
// each block of users meets another block of items, so that no two tiles of a round share a row: a warp works through
// each, and the result is that of going through all of them one after the other, whatever warps there are.

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
                                                const float* rating, const int* order, real lr, real* squared, int from,
                                                int to, int lane) {
    const Rates rate = Rates{lr, 0, 1, 0};
    for (int e0 = from; e0 < to; e0 += 32) {
        bool has = e0 + lane < to;
        int row = has ? order[e0 + lane] : 0;
        int users = has ? user[row] : 0, items = has ? item[row] : 0;
        real stars = has ? rating[row] : 0, errors = 0;
        int count = min(32, to - e0);
        for (int j = 0; j < count; ++j) {
            stored* p_at = table + (int64)__shfl_sync(ALL_LANES, users, j) * a.stride;
            stored* q_at = table + ((int64)a.users + __shfl_sync(ALL_LANES, items, j)) * a.stride;
            real star = __shfl_sync(ALL_LANES, stars, j), error;
            Row r;
            Vec q[CHUNKS], old_p[CHUNKS], g[CHUNKS];
            load_stored(r.w, p_at, a.stride, lane);  // (F1)
            load_stored(q, q_at, a.stride, lane);
            real s = warp_sum(score_part(a, r.w, q, lane)) + (real)a.mean;          // (F2), (F3)
            real d = d_score(s, RANGE, a.low, a.high, star, 1, &error);             // (F4), (F9), (B9), (B4)
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) old_p[c] = r.w[c];
            clear(g);
            add_gradient(a, g, q, d, lane);  // (B2), (B3)
            move_row(a, rate, r, g, 0, 1, lane);
            store_stored(p_at, r.w, a.stride, lane);
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) r.w[c] = q[c];
            clear(g);
            add_gradient(a, g, old_p, d, lane);
            move_row(a, rate, r, g, 1, 1, lane);
            store_stored(q_at, r.w, a.stride, lane);
            if (lane == j) errors = error;
        }
        if (has) squared[e0 + lane] = errors;
    }
}

// Sorting a rating by its key sorts it by round, by block of users, and within a tile by the order given.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    tile_keys(const int* order, const int* user, const int* item, uint64* keys, int n, int workers, int bits) {
    for (int64 e = blockIdx.x * (int64)blockDim.x + threadIdx.x; e < n; e += (int64)gridDim.x * blockDim.x) {
        int u = user[order[e]] % workers, i = item[order[e]] % workers, round = (i - u + workers) % workers;
        keys[e] = ((uint64)round * workers + u) << bits | (uint64)e;
    }
}

// The order that the keys say, and where each tile of a round begins, (rounds, workers + 1).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    tile_order(const uint64* keys, const int* order, int* tiled, int* starts, int n, int workers, int bits) {
    int64 tiles = (int64)workers * (workers + 1), work = max((int64)n, tiles);
    for (int64 x = blockIdx.x * (int64)blockDim.x + threadIdx.x; x < work; x += (int64)gridDim.x * blockDim.x) {
        if (x < n) tiled[x] = order[keys[x] & (((uint64)1 << bits) - 1)];
        if (x >= tiles) continue;
        int64 tile = x / (workers + 1) * workers + x % (workers + 1);  // a round's last end is the next one's first
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
              const int* starts, const real* lr, real* squared, unsigned* barrier, int rounds, int workers) {
    const int lane = threadIdx.x & 31, warps = gridDim.x * (blockDim.x >> 5);
    // Neighbouring tiles go to different blocks.
    const int first = (threadIdx.x >> 5) * gridDim.x + blockIdx.x;
    for (int round = 0; round < rounds; ++round) {
        for (int tile = first; tile < workers; tile += warps) {
            const int* at = starts + (int64)round * (workers + 1) + tile;
            ratings_in_turn(a, table, user, item, rating, order, lr[round], squared, at[0], at[1], lane);
        }
        grid_arrive(barrier);
        grid_wait(barrier, (unsigned)(round + 1) * gridDim.x);
    }
}

// Each warp takes the next 32 ratings, whoever works on the same rows: updates are lost now and then, and no two runs
// are alike. For those who ask for it by name.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sgd_racing(const Setup a, stored* table, const int* user, const int* item, const float* rating, const int* order,
               double lr, real* squared, int n) {
    const int lane = threadIdx.x & 31, warps = gridDim.x * (blockDim.x >> 5);
    for (int64 e = 32 * (int64)(blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)); e < n; e += 32 * (int64)warps)
        ratings_in_turn(a, table, user, item, rating, order, (real)lr, squared, (int)e, min((int)e + 32, n), lane);
}

// --- the best items of each user ------------------------------------------------------------------------------------

// A warp a row. scores: (count, items), of which those of seen[begin[u]] … seen[begin[u + 1] - 1] are set to -infinity,
// which is nobody's. The list of the best so far is kept sorted in shared memory; an item enters if it beats the last of
// it, behind its equals. Few do, once the list is full: four scores a lane are tried at once.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    top_items(real* scores, const int64* begin, const int* seen, int* best, real* best_score, int count, int items, int n) {
    DYNAMIC_SHARED(real, shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    real* score = shared + warp * n;
    int* which = (int*)(shared + warps * n) + warp * n;
    for (int u = blockIdx.x * warps + warp; u < count; u += gridDim.x * warps) {
        real* mine = scores + (int64)u * items;
        const real worst = log((real)0);
        for (int64 x = begin[u] + lane; x < begin[u + 1]; x += 32) mine[seen[x]] = worst;
        __syncwarp();
        int held = 0;
        real last = worst;  // what an item has to beat
        for (int i0 = 0; i0 < items; i0 += 128) {
            real s[4], most = worst;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                int i = i0 + 32 * k + lane;
                s[k] = i < items ? mine[i] : worst;
                most = max(most, s[k]);
            }
            if (!__any_sync(ALL_LANES, most > last)) continue;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                unsigned enter = __ballot_sync(ALL_LANES, s[k] > last);
                while (enter) {
                    int from = __ffs(enter) - 1;
                    enter &= enter - 1;
                    real new_score = __shfl_sync(ALL_LANES, s[k], from);
                    if (!(new_score > last)) continue;  // the list has grown better meanwhile
                    int keep = 0;                       // how many stand before it
                    for (int x = 0; x < held; x += 32)
                        keep += __popc(__ballot_sync(ALL_LANES, x + lane < held && score[x + lane] >= new_score));
                    // What stands behind it moves down by one, the last ones first.
                    for (int x = (held - 1 - keep) / 32 * 32 + keep; held > keep && x >= keep; x -= 32) {
                        int at = x + lane;
                        bool moves = at < held && at + 1 < n;
                        real moved = moves ? score[at] : (real)0;
                        int moved_which = moves ? which[at] : 0;
                        __syncwarp();
                        if (moves) score[at + 1] = moved, which[at + 1] = moved_which;
                    }
                    if (lane == 0) score[keep] = new_score, which[keep] = i0 + 32 * k + from;
                    __syncwarp();
                    if (held < n) ++held;
                    if (held == n) last = score[n - 1];
                    __syncwarp();
                }
            }
        }
        for (int x = lane; x < n; x += 32) {
            best[(int64)u * n + x] = x < held ? which[x] : -1;
            best_score[(int64)u * n + x] = x < held ? score[x] : worst;
        }
        __syncwarp();
    }
}

// --- predictions ---------------------------------------------------------------------------------------------------

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
// As `predict_pairs`, through the head `wanted` of a net or a hybrid.
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
