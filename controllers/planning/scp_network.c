/* Sequential convex programming through a latent roll-out, one plan after another: what `scp.py` does with tensors, here on
 * arrays that stay in the cache. Sizes come at run time; every vector is padded with zeros to whole lanes, and so are the
 * matrices of the networks, once as they are (w) and once transposed (t). compiled.py puts the parts together: this one, the
 * networks; scp_roll.c, what a plan is worth; scp_subproblem.c, how it gets better; scp.c, the whole. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int64_t int64;
typedef double lanes __attribute__((vector_size(64)));
SIMD double exp(double);
double fabs(double);
double floor(double);
double sqrt(double);
#define INFINITY __builtin_inf()

#define LANES 8
#define FOR(i, n) for (int64 i = 0; i < (n); i++)
/* HARD, BACK_OFF and PROXIMAL are scp.py's: compiled.py writes them before this text. */
#define STILL 3e-3      /* of an MV's span: a step that changes nothing ends the iterations */

typedef struct { int64 in, width, out; const double *w1, *w2, *w3, *t1, *t2, *t3, *b1, *b2, *b3, *linear, *linear_t; } Net;

static double *take(double **memory, int64 n)
{
  double *found = *memory;
  *memory += (n + LANES - 1) / LANES * LANES;
  return found;
}

static int64 padded(int64 n) { return (n + LANES - 1) / LANES * LANES; }

static double now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* y (out) += x (in) times t (in x out); out is whole lanes. */
static void apply(const double *t, int64 in, int64 out, const double *x, double *y)
{
  const int64 n = out / LANES;
  int64 k = 0;
  for (; k + 4 <= n; k += 4) {
    lanes *to = (lanes *)y + k, a0 = to[0], a1 = to[1], a2 = to[2], a3 = to[3];
    FOR(j, in) {
      const lanes *row = (const lanes *)(t + j * out) + k;
      a0 += x[j] * row[0]; a1 += x[j] * row[1]; a2 += x[j] * row[2]; a3 += x[j] * row[3];
    }
    to[0] = a0; to[1] = a1; to[2] = a2; to[3] = a3;
  }
  for (; k < n; k++) {
    lanes a = ((lanes *)y)[k];
    FOR(j, in) a += x[j] * ((const lanes *)(t + j * out))[k];
    ((lanes *)y)[k] = a;
  }
}

/* y (rows x wide) += w (rows x stride) times x (inner x wide), in the first `used` lanes; rows are whole lanes. */
static void multiply(const double *w, int64 rows, int64 stride, int64 inner, const double *x, double *y, int64 wide, int64 used)
{
  const int64 n = wide / LANES;
  FOR(v, used) for (int64 i = 0; i < rows; i += LANES) {
    lanes a[LANES];
    FOR(r, LANES) a[r] = ((lanes *)y)[(i + r) * n + v];
    FOR(j, inner) {
      const lanes value = ((const lanes *)x)[j * n + v];
      FOR(r, LANES) a[r] += w[(i + r) * stride + j] * value;
    }
    FOR(r, LANES) ((lanes *)y)[(i + r) * n + v] = a[r];
  }
}

static void silu(int64 n, double *x, double *slope)
{
  #pragma omp simd
  FOR(i, n) {
    const double s = 1.0 / (1.0 + exp(-x[i]));
    slope[i] = s * (1.0 + x[i] * (1.0 - s));
    x[i] *= s;
  }
}

/* y (out) = net(x); slopes (2 x width) of the hidden layers. */
static void forward(const Net *f, const double *x, double *y, double *slopes, double *hidden)
{
  double *a = hidden, *b = hidden + f->width;
  memcpy(a, f->b1, f->width * sizeof *a);
  apply(f->t1, f->in, f->width, x, a);
  silu(f->width, a, slopes);
  memcpy(b, f->b2, f->width * sizeof *b);
  apply(f->t2, f->width, f->width, a, b);
  silu(f->width, b, slopes + f->width);
  memcpy(y, f->b3, f->out * sizeof *y);
  apply(f->t3, f->width, f->out, b, y);
  apply(f->linear_t, f->in, f->out, x, y);
}
