// One step of one weight: the optimizers and decays.
//
// Here and in catch_up.cuh, a number near 1 is replaced by its difference from 1: float32 rounds 0.999 by up to 1.3e-8,
// which would change every second moment by a relative 1.3e-5.

// `share` is n_r / B. With g = 0 and share = 0 this is the step of an untouched row.
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
