/* Sequential convex programming through a latent roll-out, one plan after another: what `scp.py` does with tensors, here on
 * arrays that stay in the cache. Sizes come at run time; every vector is padded with zeros to whole lanes, and so are the
 * matrices of the networks, once as they are (w) and once transposed (t). */
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

#define LANES 8
#define FOR(i, n) for (int64 i = 0; i < (n); i++)
/* HARD, BACK_OFF and PROXIMAL are scp.py's: compiled.py writes them before this text. */
#define STILL 3e-3      /* of an MV's span: a step that changes nothing ends the iterations */

typedef struct { int64 in, width, out; const double *w1, *w2, *w3, *t1, *t2, *t3, *b1, *b2, *b3, *linear, *linear_t; } Net;

typedef struct {
  int64 horizon, latent, moves, extra, measured, targets, constraints, ranks, blocks, iterations, guarded;
  double suppression, steady;
  Net predictor, head[2];                       /* head: the limits, the fallback */
  const double *scale_u, *shift_u;              /* moves: scaled -> normalised */
  const double *gain, *level;                   /* measured x latent lanes, measured: what is read out of a latent */
  const double *target_scale;                   /* targets */
  const int64 *target_column, *block, *length;  /* targets; horizon; blocks */
  const int64 *which, *row, *rank;              /* constraints: its head, its output there, index of its rank */
  const double *margin_scale, *price;           /* constraints: scales of its guardrail in one unit of the head */
} Setup;

typedef struct {
  const double *z, *extra, *previous, *low, *high, *rate, *fallback, *target, *bias, *required, *weight, *reference, *warm;
} Problem;              /* shapes as in problem.py; low, high, rate, fallback, weight for all plants */

typedef struct { double *moves, *z, *measured, *margins, energy, key; int broken, lost; } Roll;

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

typedef struct {
  const Setup *s;
  int64 lat, vars, wide, rows;      /* latent, padded; moves of all blocks, and padded; dense rows of a subproblem */
  double *input, *hidden, *head_out[2], *slopes, *head_slopes[2];
  double *tangent, *next, *input_t, *a_t, *b_t, *g1, *g2;
  double *A, *offset, *low, *high;  /* dense rows, then the limits of the moves */
  double *p, *q, *x, *dx, *dual, *normal, *w, *up, *down, *gap_up, *gap_down, *h, *y, *ax, *dy, *d_up, *d_down;
  double *trial, *change;
  Roll start, best, current;
} Work;

static int64 lay_out(Work *k, const Setup *s, double *memory)
{
  double *m = memory;
  const int64 H = s->horizon, wp = s->predictor.width;
  k->s = s;
  k->lat = padded(s->latent);
  k->vars = s->blocks * s->moves;
  k->wide = padded(k->vars);
  k->rows = s->targets * (H + 1) + s->constraints * H;
  const int64 all = k->rows + 4 * k->vars, wh = s->head[0].width > s->head[1].width ? s->head[0].width : s->head[1].width;
  k->input = take(&m, s->predictor.in + s->predictor.out);
  k->hidden = take(&m, 2 * (wp > wh ? wp : wh));
  k->slopes = take(&m, 2 * wp * H);
  FOR(i, 2) {
    k->head_out[i] = take(&m, s->head[i].out);
    k->head_slopes[i] = take(&m, 2 * s->head[i].width * H);
  }
  k->tangent = take(&m, k->lat * k->wide);
  k->next = take(&m, k->lat * k->wide);
  k->input_t = take(&m, s->predictor.in * k->wide);
  k->a_t = take(&m, wp * k->wide);
  k->b_t = take(&m, wp * k->wide);
  k->g1 = take(&m, wh + k->lat);
  k->g2 = take(&m, wh);
  k->A = take(&m, k->rows * k->wide);
  double **vectors[] = {&k->offset, &k->low, &k->high, &k->w, &k->up, &k->down, &k->gap_up, &k->gap_down, &k->h, &k->y, &k->ax,
                        &k->dy, &k->d_up, &k->d_down};
  FOR(i, (int64)(sizeof vectors / sizeof *vectors)) *vectors[i] = take(&m, all);
  k->p = take(&m, k->vars * k->wide);
  k->normal = take(&m, k->vars * k->wide);
  double **small[] = {&k->q, &k->x, &k->dx, &k->dual, &k->change};
  FOR(i, 5) *small[i] = take(&m, k->wide);
  k->trial = take(&m, H * s->moves);
  Roll *rolls[] = {&k->start, &k->best, &k->current};
  FOR(i, 3) {
    rolls[i]->moves = take(&m, H * s->moves);
    rolls[i]->z = take(&m, (H + 1) * k->lat);
    rolls[i]->measured = take(&m, H * s->measured);
    rolls[i]->margins = take(&m, H * s->constraints);
  }
  return m - memory;
}

static double clip(double v, double low, double high)
{
  v = v > low ? v : low; /* the upper limit wins, as in torch.clamp */
  return v < high ? v : high;
}

static int ours(const Problem *p, int64 i) { return p->rate[i] > 0.0; }

static void inside(const Work *k, const Problem *p, int64 count, double *moves)
{
  const int64 M = k->s->moves;
  int free_rate = 1;
  FOR(i, M) free_rate &= p->rate[i] >= 1.0;
  FOR(j, count) FOR(i, M) {
    double v = clip(moves[j * M + i], p->low[i], p->high[i]);
    const double last = j ? moves[(j - 1) * M + i] : p->previous[i];
    if (!free_rate) {
      v = v < last + p->rate[i] ? v : last + p->rate[i];
      v = v > last - p->rate[i] ? v : last - p->rate[i];
      v = ours(p, i) ? clip(v, 0.0, 1.0) : last;
    }
    moves[j * M + i] = v;
  }
}

/* The mean of `moves` in each block, inside the limits, spread over the horizon again. */
static void blocked(Work *k, const Problem *p, double *moves)
{
  const Setup *s = k->s;
  const int64 M = s->moves;
  if (s->blocks == s->horizon) { inside(k, p, s->horizon, moves); return; }
  double *mean = k->change;
  memset(mean, 0, k->wide * sizeof *mean);
  FOR(j, s->horizon) FOR(i, M) mean[s->block[j] * M + i] += moves[j * M + i] / s->length[s->block[j]];
  inside(k, p, s->blocks, mean);
  FOR(j, s->horizon) FOR(i, M) moves[j * M + i] = mean[s->block[j] * M + i];
}

static int asked(const Setup *s, const Problem *p, int64 j, int64 t)
{
  const double target = p->target[j * s->targets + t];
  return target == target;
}

static double error_of(const Setup *s, const Problem *p, const Roll *r, int64 j, int64 t)
{
  return !asked(s, p, j, t) ? 0.0 : (r->measured[j * s->measured + s->target_column[t]] - p->target[j * s->targets + t]) / s->target_scale[t];
}

static double unrest(const Setup *s, const Problem *p, const Roll *r, int64 t)
{
  if (!asked(s, p, s->horizon - 1, t)) return 0.0;
  const double *last = r->measured + (s->horizon - 1) * s->measured + s->target_column[t];
  return s->horizon > 1 ? s->steady * (last[0] - last[-s->measured]) / s->target_scale[t] : 0.0;
}

/* Energy, and one number that orders plans: `rank_key` of problem.py. */
static void judge(const Work *k, const Problem *p, Roll *r)
{
  const Setup *s = k->s;
  const int64 M = s->moves;
  double energy = 0.0, key = 0.0, scale = 1e4;
  FOR(j, s->horizon) {
    FOR(t, s->targets) energy += fabs(error_of(s, p, r, j, t));
    FOR(i, M) {
      const double u = r->moves[j * M + i], off = u - p->reference[j * M + i];
      const double step = u - (j ? r->moves[(j - 1) * M + i] : p->previous[i]);
      energy += p->weight[j * M + i] * off * off + s->suppression * step * step;
    }
  }
  if (s->steady > 0) FOR(t, s->targets) energy += fabs(unrest(s, p, r, t));
  r->energy = energy;
  r->broken = r->lost = 0;
  const int64 ranks = s->guarded && s->constraints ? s->ranks : 0;
  for (int64 rank = ranks - 1; rank >= 0; rank--, scale *= 1e4) {
    double violation = 0.0;
    FOR(j, s->horizon) FOR(c, s->constraints) if (s->rank[c] == rank) {
      const double shortfall = p->required[j * s->constraints + c] - r->margins[j * s->constraints + c];
      violation += shortfall > 0 || shortfall != shortfall ? shortfall : 0.0;
    }
    r->broken |= !(violation * 100 < 1);
    if (rank == 0) r->lost = !(violation * 100 < 1);
    double counted = violation == violation ? floor(violation * 100) : 1e300;
    if (counted > 5000) counted = 10000 - 5000.0 * 5000.0 / counted;
    key += (counted < 9999 ? counted : 9999) * scale;
  }
  r->key = key + (energy == energy && energy < 9e3 ? energy : 9e3);
}

static void roll(Work *k, const Problem *p, Roll *r)
{
  const Setup *s = k->s;
  const int64 H = s->horizon, M = s->moves, L = s->latent, G = s->constraints;
  double *x = k->input, *out = x + s->predictor.in;
  memset(r->z, 0, (H + 1) * k->lat * sizeof *x);
  memset(x, 0, s->predictor.in * sizeof *x);
  memcpy(r->z, p->z, L * sizeof *x);
  FOR(j, H) {
    double *z = r->z + (j + 1) * k->lat;
    memcpy(x, z - k->lat, L * sizeof *x);
    FOR(i, M) x[L + i] = r->moves[j * M + i] * s->scale_u[i] + s->shift_u[i];
    memcpy(x + L + M, p->extra + j * s->extra, s->extra * sizeof *x);
    forward(&s->predictor, x, out, k->slopes + j * 2 * s->predictor.width, k->hidden);
    FOR(i, L) z[i] = x[i] + out[i];
    FOR(y, s->measured) {
      double value = s->level[y] + p->bias[j * s->measured + y];
      FOR(i, L) value += s->gain[y * k->lat + i] * z[i];
      r->measured[j * s->measured + y] = value;
    }
    if (G) FOR(i, 2) forward(&s->head[i], z, k->head_out[i], k->head_slopes[i] + j * 2 * s->head[i].width, k->hidden);
    FOR(c, G) r->margins[j * G + c] = k->head_out[s->which[c]][s->row[c]] * s->margin_scale[c];
  }
  judge(k, p, r);
}

/* A row of the subproblem: -(slope of margin c of sample j to the latent) times the tangents of that latent. */
static void margin_row(Work *k, int64 c, int64 j, double *row, int64 used)
{
  const Setup *s = k->s;
  const Net *f = &s->head[s->which[c]];
  const double *slopes = k->head_slopes[s->which[c]] + j * 2 * f->width;
  double *to_latent = k->g1 + f->width;
  FOR(i, f->width) k->g2[i] = f->w3[s->row[c] * f->width + i] * slopes[f->width + i];
  memset(k->g1, 0, f->width * sizeof *k->g1);
  apply(f->w2, f->width, f->width, k->g2, k->g1);
  FOR(i, f->width) k->g1[i] *= slopes[i];
  memcpy(to_latent, f->linear + s->row[c] * f->in, k->lat * sizeof *to_latent);
  apply(f->w1, f->width, k->lat, k->g1, to_latent);
  FOR(v, used) {
    lanes sum = {0};
    FOR(i, s->latent) sum -= to_latent[i] * s->margin_scale[c] * ((lanes *)k->tangent)[i * k->wide / LANES + v];
    ((lanes *)row)[v] = sum;
  }
}

/* Rows, offsets and prices of the energy and the guardrails around the current roll-out. Returns how many rows. */
static int64 linearise(Work *k, const Problem *p)
{
  const Setup *s = k->s;
  const Roll *r = &k->current;
  const Net *f = &s->predictor;
  const int64 H = s->horizon, M = s->moves, L = s->latent, G = s->guarded ? s->constraints : 0, n = k->wide / LANES;
  int64 rows = 0;
  const int64 last = s->targets * H + G * H;
  memset(k->tangent, 0, k->lat * k->wide * sizeof(double));
  memset(k->input_t, 0, f->in * k->wide * sizeof(double));
  memset(k->A, 0, k->rows * k->wide * sizeof(double));
  FOR(j, H) {
    const double *slopes = k->slopes + j * 2 * f->width;
    const int64 used = ((s->block[j] + 1) * M + LANES - 1) / LANES;
    memcpy(k->input_t, k->tangent, L * k->wide * sizeof(double));
    memset(k->input_t + L * k->wide, 0, M * k->wide * sizeof(double));
    FOR(i, M) if (ours(p, i)) k->input_t[(L + i) * k->wide + s->block[j] * M + i] = s->scale_u[i];
    memset(k->a_t, 0, f->width * k->wide * sizeof(double));
    memset(k->b_t, 0, f->width * k->wide * sizeof(double));
    multiply(f->w1, f->width, f->in, L + M, k->input_t, k->a_t, k->wide, used);
    FOR(i, f->width) FOR(v, used) ((lanes *)k->a_t)[i * n + v] *= slopes[i];
    multiply(f->w2, f->width, f->width, f->width, k->a_t, k->b_t, k->wide, used);
    FOR(i, f->width) FOR(v, used) ((lanes *)k->b_t)[i * n + v] *= slopes[f->width + i];
    multiply(f->w3, f->out, f->width, f->width, k->b_t, k->tangent, k->wide, used);
    multiply(f->linear, f->out, f->in, L + M, k->input_t, k->tangent, k->wide, used);
    FOR(t, s->targets) {
      double *row = k->A + rows * k->wide;
      const double *gain = s->gain + s->target_column[t] * k->lat;
      FOR(v, used) {
        lanes sum = {0};
        FOR(i, L) sum += gain[i] / s->target_scale[t] * ((lanes *)k->tangent)[i * n + v];
        if (asked(s, p, j, t)) ((lanes *)row)[v] = sum;
        if (s->steady > 0 && j >= H - 2 && asked(s, p, H - 1, t))
          ((lanes *)(k->A + (last + t) * k->wide))[v] += (j == H - 1 ? s->steady : -s->steady) * sum;
      }
      k->offset[rows] = error_of(s, p, r, j, t);
      k->low[rows] = -1.0;
      k->high[rows++] = 1.0;
    }
    FOR(c, G) {
      margin_row(k, c, j, k->A + rows * k->wide, used);
      k->offset[rows] = p->required[j * s->constraints + c] + BACK_OFF - r->margins[j * s->constraints + c];
      k->low[rows] = 0.0;
      k->high[rows++] = s->price[c];
    }
  }
  if (s->steady > 0 && H > 1) FOR(t, s->targets) {
    k->offset[rows] = unrest(s, p, r, t);
    k->low[rows] = -1.0;
    k->high[rows++] = 1.0;
  }
  return rows;
}

/* The quadratic part, and the limits of the moves as rows of their own: +x, -x and, where rates bind, +-(x - the one before). */
static int64 limits(Work *k, const Problem *p, int64 rows)
{
  const Setup *s = k->s;
  const int64 M = s->moves, n = k->vars;
  const double *u = k->current.moves;
  int64 first = 0, all = rows;
  int limited = 0;
  FOR(i, M) limited |= p->rate[i] < 1.0;
  memset(k->p, 0, n * k->wide * sizeof(double));
  memset(k->q, 0, k->wide * sizeof(double));
  FOR(b, s->blocks) {
    FOR(i, M) {
      const int64 v = b * M + i;
      const double value = u[first * M + i], step = value - (b ? u[(first - 1) * M + i] : p->previous[i]);
      k->p[v * k->wide + v] += PROXIMAL * s->length[b] + 2 * s->suppression;
      k->q[v] += 2 * s->suppression * step;
      if (b) {
        k->p[(v - M) * k->wide + v - M] += 2 * s->suppression;
        k->p[v * k->wide + v - M] -= 2 * s->suppression;
        k->p[(v - M) * k->wide + v] -= 2 * s->suppression;
        k->q[v - M] -= 2 * s->suppression * step;
      }
      for (int64 j = first; j < first + s->length[b]; j++) {
        k->p[v * k->wide + v] += 2 * p->weight[j * M + i];
        k->q[v] += 2 * p->weight[j * M + i] * (u[j * M + i] - p->reference[j * M + i]);
      }
      if (!ours(p, i)) k->q[v] = 0.0;
      k->change[v] = step;
      k->offset[rows + v] = value - p->high[i];
      k->offset[rows + n + v] = p->low[i] - value;
      if (limited) {
        k->offset[rows + 2 * n + v] = step - p->rate[i];
        k->offset[rows + 3 * n + v] = -step - p->rate[i];
      }
    }
    first += s->length[b];
  }
  all += (limited ? 4 : 2) * n;
  for (int64 r = rows; r < all; r++) { k->low[r] = 0.0; k->high[r] = HARD; }
  return all;
}

/* out (all rows) = A x */
static void times(const Work *k, int64 rows, int64 all, const double *x, double *out)
{
  const int64 M = k->s->moves, n = k->vars;
  FOR(r, rows) {
    lanes sum = {0};
    FOR(v, k->wide / LANES) sum += ((const lanes *)(k->A + r * k->wide))[v] * ((const lanes *)x)[v];
    out[r] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }
  FOR(v, n) {
    out[rows + v] = x[v];
    out[rows + n + v] = -x[v];
    if (all > rows + 2 * n) {
      out[rows + 2 * n + v] = x[v] - (v >= M ? x[v - M] : 0.0);
      out[rows + 3 * n + v] = -out[rows + 2 * n + v];
    }
  }
}

/* out (wide) += factor A' y */
static void transposed(const Work *k, int64 rows, int64 all, const double *y, double factor, double *out)
{
  const int64 M = k->s->moves, n = k->vars;
  FOR(r, rows) FOR(v, k->wide / LANES)
    ((lanes *)out)[v] += factor * y[r] * ((const lanes *)(k->A + r * k->wide))[v];
  FOR(v, n) {
    out[v] += factor * (y[rows + v] - y[rows + n + v]);
    if (all > rows + 2 * n) {
      const double d = factor * (y[rows + 2 * n + v] - y[rows + 3 * n + v]);
      out[v] += d;
      if (v >= M) out[v - M] -= d;
    }
  }
}

/* normal = P + A' W A, its lower triangle, whole lanes of it. */
static void assemble(Work *k, int64 rows, int64 all)
{
  const int64 M = k->s->moves, n = k->vars, wide = k->wide;
  double *N = k->normal;
  const double *w = k->w;
  memcpy(N, k->p, n * wide * sizeof *N);
  FOR(i, n) {
    lanes *to = (lanes *)(N + i * wide);
    const int64 used = i / LANES + 1;
    FOR(r, rows) {
      const double *a = k->A + r * wide, weighed = w[r] * a[i];
      if (weighed != 0.0) FOR(v, used) to[v] += weighed * ((const lanes *)a)[v];
    }
  }
  FOR(v, n) {
    N[v * wide + v] += w[rows + v] + w[rows + n + v];
    if (all > rows + 2 * n) {
      const double d = w[rows + 2 * n + v] + w[rows + 3 * n + v];
      N[v * wide + v] += d;
      if (v >= M) { N[(v - M) * wide + v - M] += d; N[v * wide + v - M] -= d; }
    }
  }
}

/* Solves normal x = x in place by Cholesky. */
static void factorised(Work *k, double *x)
{
  const int64 n = k->vars, wide = k->wide;
  double *N = k->normal;
  FOR(j, n) {
    double *row = N + j * wide, pivot = row[j];
    #pragma omp simd reduction(-:pivot)
    FOR(c, j) pivot -= row[c] * row[c];
    row[j] = sqrt(pivot);
    for (int64 i = j + 1; i < n; i++) {
      double *low = N + i * wide, sum = low[j];
      #pragma omp simd reduction(-:sum)
      FOR(c, j) sum -= low[c] * row[c];
      low[j] = sum / row[j];
    }
  }
  FOR(i, n) {
    FOR(c, i) x[i] -= N[i * wide + c] * x[c];
    x[i] /= N[i * wide + i];
  }
  for (int64 i = n - 1; i >= 0; i--) {
    x[i] /= N[i * wide + i];
    FOR(c, i) x[c] -= N[i * wide + c] * x[i];
  }
}

/* The interior-point iterations of qp.py; the step of the moves is left in `x`. */
static void solve(Work *k, int64 rows, int64 all)
{
  const int64 n = k->vars, wide = k->wide, iterations = 10;
  double *up = k->up, *down = k->down, *y = k->y, *x = k->x, *c = k->offset;
  memset(x, 0, wide * sizeof *x);
  FOR(r, all) {
    const double half = 0.5 * (k->high[r] - k->low[r]);
    y[r] = k->low[r] + (half < 1.0 ? half : 1.0);
    up[r] = (c[r] > 0 ? c[r] : 0.0) + 0.1;
    down[r] = (c[r] < 0 ? -c[r] : 0.0) + 0.1;
  }
  FOR(it, iterations) {
    double complementarity = 0.0, shrink = 0.98;
    #pragma omp simd reduction(+:complementarity)
    FOR(r, all) {
      k->gap_up[r] = k->high[r] - y[r];
      k->gap_down[r] = y[r] - k->low[r];
      complementarity += up[r] * k->gap_up[r] + down[r] * k->gap_down[r];
    }
    double mu = complementarity / all / 2 * (it < iterations - 3 ? 0.1 : 0.03);
    mu = mu > 1e-11 ? mu : 1e-11;
    times(k, rows, all, x, k->ax);
    #pragma omp simd
    FOR(r, all) {
      k->w[r] = 1.0 / (up[r] / k->gap_up[r] + down[r] / k->gap_down[r]);
      k->h[r] = k->ax[r] + c[r] - mu / k->gap_up[r] + mu / k->gap_down[r];
      k->dy[r] = k->w[r] * k->h[r] + y[r];
    }
    FOR(i, n) {
      double sum = k->q[i];
      FOR(j, n) sum += k->p[i * wide + j] * x[j];
      k->dx[i] = -sum;
    }
    for (int64 i = n; i < wide; i++) k->dx[i] = 0.0;
    transposed(k, rows, all, k->dy, -1.0, k->dx);
    assemble(k, rows, all);
    factorised(k, k->dx);
    times(k, rows, all, k->dx, k->ax);
    #pragma omp simd reduction(max:shrink)
    FOR(r, all) {
      k->dy[r] = k->w[r] * (k->ax[r] + k->h[r]);
      k->d_up[r] = (mu + up[r] * k->dy[r]) / k->gap_up[r] - up[r];
      k->d_down[r] = (mu - down[r] * k->dy[r]) / k->gap_down[r] - down[r];
      double worst = -k->d_up[r] / up[r], other = -k->d_down[r] / down[r];
      worst = other > worst ? other : worst;
      other = k->dy[r] / k->gap_up[r];
      worst = other > worst ? other : worst;
      other = -k->dy[r] / k->gap_down[r];
      worst = other > worst ? other : worst;
      shrink = worst > shrink ? worst : shrink;
    }
    const double step = 0.98 / shrink;
    FOR(i, n) x[i] += step * k->dx[i];
    #pragma omp simd
    FOR(r, all) {
      y[r] += step * k->dy[r];
      up[r] += step * k->d_up[r];
      down[r] += step * k->d_down[r];
    }
  }
}

static void copy(const Work *k, const Roll *from, Roll *to)
{
  const Setup *s = k->s;
  memcpy(to->moves, from->moves, s->horizon * s->moves * sizeof(double));
  memcpy(to->z, from->z, (s->horizon + 1) * k->lat * sizeof(double));
  memcpy(to->measured, from->measured, s->horizon * s->measured * sizeof(double));
  memcpy(to->margins, from->margins, s->horizon * s->constraints * sizeof(double));
  to->energy = from->energy;
  to->key = from->key;
  to->broken = from->broken;
  to->lost = from->lost;
}

static int better(const Work *k)
{
  if (!(k->current.key < k->best.key)) return 0;
  copy(k, &k->current, (Roll *)&k->best);
  return 1;
}

/* Plans one problem within `budget` seconds; the plan is left in `best`, the fallback counts as in `Planner.plan`. */
static void plan_one(Work *k, const Problem *p, double budget, int trust, int64 *converged, int64 *late)
{
  const Setup *s = k->s;
  const int64 M = s->moves, size = s->horizon * M;
  const double began = now();
  double asked = began, longest = 0.0, before = 0.0, last = 0.0;
  int64 done = 0;
  FOR(i, size) k->current.moves[i] = p->fallback[i % M];
  inside(k, p, s->horizon, k->current.moves);
  roll(k, p, &k->current);
  copy(k, &k->current, &k->best);
  copy(k, &k->current, &k->start); /* the fallback, until the end */
  memcpy(k->current.moves, p->warm, size * sizeof(double));
  inside(k, p, s->horizon, k->current.moves);
  roll(k, p, &k->current);
  if (k->current.key <= k->best.key) copy(k, &k->current, &k->best);
  if (s->blocks < s->horizon) {
    blocked(k, p, k->current.moves);
    roll(k, p, &k->current);
    better(k);
  }
  *late = *converged = 0;
  last = k->current.energy;
  FOR(it, s->iterations) {
    const double t = now();
    longest = t - asked > longest ? t - asked : longest;
    asked = t;
    if (t + longest >= began + budget) { *late = 1; break; }
    const int64 rows = linearise(k, p), all = limits(k, p, rows);
    solve(k, rows, all);
    memcpy(k->trial, k->current.moves, size * sizeof(double));
    FOR(j, s->horizon) FOR(i, M) {
      const double step = k->x[s->block[j] * M + i];
      k->current.moves[j * M + i] += step - step == 0.0 ? step : 0.0;
    }
    blocked(k, p, k->current.moves);
    roll(k, p, &k->current);
    better(k);
    before = last;
    last = k->current.energy;
    done++;
    double moved = 0.0;
    FOR(i, size) { const double d = fabs(k->current.moves[i] - k->trial[i]); moved = d > moved ? d : moved; }
    if (moved < STILL) { done = 2; before = last; break; }
  }
  *converged = done >= 2 && fabs(last - before) <= 0.01 * (0.1 + fabs(before));
  if (k->current.broken && !*late) {
    const double shares[] = {0.8, 0.5, 0.25, 0.1};
    double *origin = k->trial, *goal = k->A; /* the rows are done with */
    memcpy(origin, k->best.moves, size * sizeof(double));
    memcpy(goal, k->current.moves, size * sizeof(double));
    FOR(i, 4) {
      FOR(j, size) k->current.moves[j] = origin[j] + shares[i] * (goal[j] - origin[j]);
      blocked(k, p, k->current.moves);
      roll(k, p, &k->current);
      better(k);
    }
  }
  if (trust && k->best.lost) copy(k, &k->start, &k->best);
}

static Problem part(const Setup *s, const Problem *p, int64 b)
{
  const int64 H = s->horizon, M = s->moves;
  Problem one = *p;
  one.z += b * s->latent;
  one.extra += b * H * s->extra;
  one.previous += b * M;
  one.target += b * H * s->targets;
  one.bias += b * H * s->measured;
  one.required += b * H * s->constraints;
  one.reference += b * H * M;
  one.warm += b * H * M;
  return one;
}

static void hand_over(const Setup *s, const Work *k, const Roll *r, int64 b, double *moves, double *z, double *measured, double *margins)
{
  const int64 H = s->horizon;
  memcpy(moves + b * H * s->moves, r->moves, H * s->moves * sizeof(double));
  FOR(j, H + 1) memcpy(z + (b * (H + 1) + j) * s->latent, r->z + j * k->lat, s->latent * sizeof(double));
  memcpy(measured + b * H * s->measured, r->measured, H * s->measured * sizeof(double));
  memcpy(margins + b * H * s->constraints, r->margins, H * s->constraints * sizeof(double));
}

/* Plans plants first..end-1, each with an equal share of what is left of `budget` seconds; a negative `trust` only plays the
 * warm start. Returns 0, or 1 without memory. */
int64 plan(const Setup *s, const Problem *p, int64 first, int64 end, double budget, int64 trust, double *moves, double *z,
           double *measured, double *margins, int64 *converged, int64 *late)
{
  Work k;
  double *memory = NULL;
  const int64 size = lay_out(&k, s, NULL) + LANES;
  const double until = now() + budget;
  if (posix_memalign((void **)&memory, 64, size * sizeof(double))) return 1;
  memset(memory, 0, size * sizeof(double));
  lay_out(&k, s, memory);
  for (int64 b = first; b < end; b++) {
    const Problem one = part(s, p, b);
    if (trust < 0) {
      memcpy(k.current.moves, one.warm, s->horizon * s->moves * sizeof(double));
      inside(&k, &one, s->horizon, k.current.moves);
      roll(&k, &one, &k.current);
    } else plan_one(&k, &one, (until - now()) / (end - b), trust > 0, converged + b, late + b);
    hand_over(s, &k, trust < 0 ? &k.current : &k.best, b, moves, z, measured, margins);
  }
  free(memory);
  return 0;
}
