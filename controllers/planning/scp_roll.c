typedef struct {
  int64 horizon, latent, moves, extra, measured, targets, zones, constraints, limits, ranks, blocks, iterations, guarded;
  double steady;
  Net predictor, head[2];                       /* head: the limits, the fallback */
  const double *scale_u, *shift_u;              /* moves: scaled -> normalised */
  const double *z_low, *z_high;                 /* latent: where it stops */
  const double *gain, *level;                   /* measured x latent lanes, measured: what is read out of a latent */
  const double *suppression;                    /* moves */
  const double *target_scale, *zone_scale;      /* targets; zones */
  const double *late;                           /* horizon: what is missing of a margin counts so much */
  const int64 *target_column, *zone_column, *block, *length; /* targets; zones; horizon; blocks */
  const int64 *which, *row, *rank;              /* constraints, the limits first: its head, its output there, index of its rank */
  const double *margin_scale, *price;           /* constraints: scales of its guardrail in one unit of the head */
} Setup;

typedef struct {
  const double *z, *extra, *previous, *low, *high, *rate, *fallback, *target, *bias, *required, *calibrated, *zone, *weight,
    *reference, *warm;
} Problem;              /* shapes as in problem.py; low, high, rate, fallback for all plants; calibrated may be missing */

/* `key`: what `ranking.py` orders plans by, 2 ranks + 1. */
typedef struct { double *moves, *z, *measured, *margins, *key, energy; } Roll;

typedef struct {
  const Setup *s;
  int64 lat, vars, wide;            /* latent, padded; moves of all blocks, and padded */
  int64 rows, twins;                /* room for, then number of, a subproblem's dense rows, and of rows that repeat one of them */
  int64 *twin;                      /* twins: the dense row, */
  double *sign;                     /* and the sign of it */
  double *input, *hidden, *head_out[2], *slopes, *head_slopes[2];
  double *tangent, *next, *input_t, *a_t, *b_t, *g1, *g2;
  double *A, *offset, *low, *high;  /* dense rows; these, then the twins, then the limits of the moves */
  double *folded;                   /* dense rows: what twins add to them */
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
  k->rows = s->targets * (H + 1) + (s->constraints + s->zones) * H;
  k->twins = (s->limits + s->zones) * H;
  const int64 all = k->rows + k->twins + 4 * k->vars, wh = s->head[0].width > s->head[1].width ? s->head[0].width : s->head[1].width;
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
  k->folded = take(&m, k->rows);
  k->sign = take(&m, k->twins);
  k->twin = (int64 *)take(&m, k->twins);
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
    rolls[i]->key = take(&m, 2 * s->ranks + 1);
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

/* How far past the high (side 1) or low side of a zone, in its scales: below 0 inside, NaN where the side is open. */
static double outside(const Setup *s, const Problem *p, const Roll *r, int64 j, int64 t, int64 side)
{
  const double past = r->measured[j * s->measured + s->zone_column[t]] - p->zone[2 * (j * s->zones + t) + side];
  return (side ? past : -past) / s->zone_scale[t];
}

static double counted(double violation)
{
  return violation == violation ? floor(violation * 100) : INFINITY;
}

static int breaks(const Setup *s, const Roll *r)
{
  FOR(i, 2 * s->ranks) if (r->key[i] > 0) return 1;
  return 0;
}

static int before(const Setup *s, const Roll *one, const Roll *other)
{
  FOR(i, 2 * s->ranks + 1) if (one->key[i] != other->key[i]) return one->key[i] < other->key[i];
  return 0;
}

/* Energy, and the key. */
static void judge(const Work *k, const Problem *p, Roll *r)
{
  const Setup *s = k->s;
  const int64 M = s->moves;
  double energy = 0.0;
  FOR(j, s->horizon) {
    FOR(t, s->targets) energy += fabs(error_of(s, p, r, j, t));
    FOR(i, M) {
      const double u = r->moves[j * M + i], off = u - p->reference[j * M + i];
      const double step = u - (j ? r->moves[(j - 1) * M + i] : p->previous[i]);
      energy += p->weight[j * M + i] * off * off + s->suppression[i] * step * step;
    }
  }
  FOR(j, s->horizon) FOR(t, s->zones) FOR(side, 2) {
    const double past = outside(s, p, r, j, t, side);
    energy += past > 0 ? past : 0.0;
  }
  if (s->steady > 0) FOR(t, s->targets) energy += fabs(unrest(s, p, r, t));
  r->energy = energy;
  r->key[2 * s->ranks] = energy == energy ? energy : INFINITY;
  FOR(i, 2 * s->ranks) r->key[i] = 0.0;
  if (!s->guarded) return;
  FOR(j, s->horizon) FOR(c, s->constraints) {
    const int64 at = j * s->constraints + c;
    const double short_of = p->required[at] - r->margins[at];
    r->key[s->rank[c]] += short_of > 0 || short_of != short_of ? short_of : 0.0;
    if (!p->calibrated || !(p->calibrated[at] > 0)) continue;
    const double missing = short_of + p->calibrated[at];
    r->key[s->ranks + s->rank[c]] += missing > 0 || missing != missing ? missing * s->late[j] : 0.0;
  }
  FOR(i, 2 * s->ranks) r->key[i] = counted(r->key[i]);
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
    FOR(i, L) {
      const double next = x[i] + out[i];
      z[i] = next == next ? clip(next, s->z_low[i], s->z_high[i]) : next;
    }
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
