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

/* One more dense row, cleared, with its offset and the limits of its multiplier. */
static double *dense(Work *k, double offset, double low, double high)
{
  double *row = k->A + k->rows * k->wide;
  memset(row, 0, k->wide * sizeof *row);
  k->offset[k->rows] = offset;
  k->low[k->rows] = low;
  k->high[k->rows++] = high;
  return row;
}

/* `sign` times the last dense row once more, at another offset and price. Kept apart until all dense rows are known. */
static void twin(Work *k, double sign, double offset, double price)
{
  k->twin[k->twins] = k->rows - 1;
  k->sign[k->twins] = sign;
  k->ax[k->twins] = offset; /* scratch until `settle` */
  k->dy[k->twins++] = price;
}

/* Twins follow the dense rows. */
static void settle(Work *k)
{
  FOR(t, k->twins) {
    k->offset[k->rows + t] = k->ax[t];
    k->low[k->rows + t] = 0.0;
    k->high[k->rows + t] = k->dy[t];
  }
}

/* Zone `t` at sample `j`: its high side, or the low one where that is the only one, and the low one as its twin. */
static void zone_row(Work *k, const Problem *p, int64 t, int64 j, int64 used)
{
  const Setup *s = k->s;
  const double above = outside(s, p, &k->current, j, t, 1), below = outside(s, p, &k->current, j, t, 0);
  const double *zone = p->zone + 2 * (j * s->zones + t);
  const int top = zone[1] == zone[1], bottom = zone[0] == zone[0];
  if (!top && !bottom) { dense(k, -1.0, 0.0, 1.0); twin(k, -1.0, -1.0, 1.0); return; } /* as many rows, whatever is asked */
  const double *gain = s->gain + s->zone_column[t] * k->lat, sign = top ? 1.0 : -1.0;
  double *row = dense(k, top ? above : below, 0.0, 1.0);
  FOR(v, used) {
    lanes sum = {0};
    FOR(i, s->latent) sum += sign * gain[i] / s->zone_scale[t] * ((lanes *)k->tangent)[i * k->wide / LANES + v];
    ((lanes *)row)[v] = sum;
  }
  if (top && bottom) twin(k, -1.0, below, 1.0);
}

/* Rows, offsets and prices of the energy and the guardrails around the current roll-out. */
static void linearise(Work *k, const Problem *p)
{
  const Setup *s = k->s;
  const Roll *r = &k->current;
  const Net *f = &s->predictor;
  const int64 H = s->horizon, M = s->moves, L = s->latent, G = s->guarded ? s->constraints : 0, n = k->wide / LANES;
  k->rows = k->twins = 0;
  const int64 ends = s->steady > 0 && H > 1 ? s->targets : 0;
  FOR(t, ends) dense(k, unrest(s, p, r, t), -1.0, 1.0);
  memset(k->tangent, 0, k->lat * k->wide * sizeof(double));
  memset(k->input_t, 0, f->in * k->wide * sizeof(double));
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
    const double *z = r->z + (j + 1) * k->lat;
    FOR(i, L) if (z[i] <= s->z_low[i] || z[i] >= s->z_high[i]) memset(k->tangent + i * k->wide, 0, k->wide * sizeof(double));
    FOR(t, s->targets) {
      double *row = dense(k, error_of(s, p, r, j, t), -1.0, 1.0);
      const double *gain = s->gain + s->target_column[t] * k->lat;
      FOR(v, used) {
        lanes sum = {0};
        FOR(i, L) sum += gain[i] / s->target_scale[t] * ((lanes *)k->tangent)[i * n + v];
        if (asked(s, p, j, t)) ((lanes *)row)[v] = sum;
        if (ends && j >= H - 2 && asked(s, p, H - 1, t))
          ((lanes *)(k->A + t * k->wide))[v] += (j == H - 1 ? s->steady : -s->steady) * sum;
      }
    }
    FOR(t, s->zones) zone_row(k, p, t, j, used);
    FOR(c, G) {
      const int64 at = j * s->constraints + c;
      const double past = p->required[at] + BACK_OFF - r->margins[at];
      margin_row(k, c, j, dense(k, past, 0.0, s->price[c]), used);
      if (p->calibrated && c < s->limits) twin(k, 1.0, past + p->calibrated[at], s->price[c] * s->late[j]);
    }
  }
  settle(k);
}

/* The quadratic part, and the limits of the moves as rows of their own: +x, -x and, where rates bind, +-(x - the one before).
 * Returns how many rows there are in all. */
static int64 limits(Work *k, const Problem *p)
{
  const Setup *s = k->s;
  const int64 M = s->moves, n = k->vars, rows = k->rows + k->twins;
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
      const double suppression = 2 * s->suppression[i];
      k->p[v * k->wide + v] += PROXIMAL * s->length[b] + suppression;
      k->q[v] += suppression * step;
      if (b) {
        k->p[(v - M) * k->wide + v - M] += suppression;
        k->p[v * k->wide + v - M] -= suppression;
        k->p[(v - M) * k->wide + v] -= suppression;
        k->q[v - M] -= suppression * step;
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
static void times(const Work *k, int64 all, const double *x, double *out)
{
  const int64 M = k->s->moves, n = k->vars, rows = k->rows + k->twins;
  FOR(r, k->rows) {
    lanes sum = {0};
    FOR(v, k->wide / LANES) sum += ((const lanes *)(k->A + r * k->wide))[v] * ((const lanes *)x)[v];
    out[r] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }
  FOR(t, k->twins) out[k->rows + t] = k->sign[t] * out[k->twin[t]];
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
static void transposed(const Work *k, int64 all, const double *y, double factor, double *out)
{
  const int64 M = k->s->moves, n = k->vars, rows = k->rows + k->twins;
  memcpy(k->folded, y, k->rows * sizeof *y);
  FOR(t, k->twins) k->folded[k->twin[t]] += k->sign[t] * y[k->rows + t];
  FOR(r, k->rows) FOR(v, k->wide / LANES)
    ((lanes *)out)[v] += factor * k->folded[r] * ((const lanes *)(k->A + r * k->wide))[v];
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
static void assemble(Work *k, int64 all)
{
  const int64 M = k->s->moves, n = k->vars, wide = k->wide, rows = k->rows + k->twins;
  double *N = k->normal;
  const double *w = k->w;
  memcpy(N, k->p, n * wide * sizeof *N);
  memcpy(k->folded, w, k->rows * sizeof *w);
  FOR(t, k->twins) k->folded[k->twin[t]] += w[k->rows + t];
  FOR(i, n) {
    lanes *to = (lanes *)(N + i * wide);
    const int64 used = i / LANES + 1;
    FOR(r, k->rows) {
      const double *a = k->A + r * wide, weighed = k->folded[r] * a[i];
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
static void solve(Work *k, int64 all)
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
    times(k, all, x, k->ax);
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
    transposed(k, all, k->dy, -1.0, k->dx);
    assemble(k, all);
    factorised(k, k->dx);
    times(k, all, k->dx, k->ax);
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
