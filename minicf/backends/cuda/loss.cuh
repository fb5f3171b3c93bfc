// The loss of one rating: from a score to the loss's value and slope.
//
// Each loss is one function with these arguments: the score, the rating range (F4), the rating, and the number of
// ratings in the batch. LOSS chooses between them. All kernels that train call `loss_of`.

struct Loss {
    real value;  // of this rating, not divided by the batch size
    real slope;  // derivative of the batch's mean loss by the score
};

// (F4), (F9) forward, (B9), (B4) back.
__device__ __forceinline__ Loss squared_error(real s, int range, double low, double high, real rating, int batch) {
    real error = predicted(s, range, low, high) - rating;
    real slope = 2 * error / batch;
    if (range) slope *= range_slope(s, low, high);
    return Loss{error * error, slope};
}

// log(1 + exp(y)) - r y, for ratings in [0, 1]. exp takes no positive number, so that it does not overflow:
// log(1 + exp(y)) = max(y, 0) + log(1 + exp(-|y|)).
__device__ __forceinline__ Loss logistic(real s, int range, double low, double high, real rating, int batch) {
    real y = predicted(s, range, low, high);
    real slope = (sigmoid(y) - rating) / batch;
    if (range) slope *= range_slope(s, low, high);
    return Loss{max(y, (real)0) - rating * y + log1p(exp(-fabs(y))), slope};
}

__device__ __forceinline__ Loss loss_of(const Setup& a, real s, int range, double low, double high, real rating,
                                        int batch) {
    return LOSS == LOGISTIC ? logistic(s, range, low, high, rating, batch)
                            : squared_error(s, range, low, high, rating, batch);
}
