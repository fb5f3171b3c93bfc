// All CUDA of minicf. Compiled at run time by device.py, which is also the only caller.
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
