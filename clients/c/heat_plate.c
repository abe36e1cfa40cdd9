/* Heat conduction in a square plate, in C.
 *
 * Its edges are kept at 0 K: T_t = a (T_xx + T_yy) + q. It is the twin of physgym/Heat-v0 with size=16: sine series in
 * space, exact in time under a constant source. That of Python transforms by FFT, this one by the matrix of sines. */
#include "physgym.h"

#ifndef SIZE
#define SIZE 16 /* inner points per side */
#endif
#define CELLS (SIZE * SIZE)
#define PI 3.14159265358979323846
#define LENGTH 0.1       /* m */
#define DIFFUSIVITY 1e-4 /* m2/s */
#define TIME_STEP 0.5    /* s */
#define SOURCE 20.0      /* K/s, at most */
#define INITIAL 20.0     /* K, at most */
#define SPOTS 4
#define NARROW 0.05 /* standard deviation of a spot, as a part of the side */
#define WIDE 0.15

typedef struct {
    double temperature[CELLS];
    double sines[SIZE][SIZE], decay[CELLS], gain[CELLS];
    double work[CELLS], modes[CELLS], sources[CELLS];
} plate;

static const pg_field observation[] = {
    {NULL, PG_FLOAT32, {SIZE, SIZE}, -INFINITY, INFINITY, NULL, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_field action[] = {
    {NULL, PG_FLOAT32, {SIZE, SIZE}, -SOURCE, SOURCE, NULL, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_field parameters[] = {
    {"count", PG_DISCRETE, {0}, 1, SPOTS, NULL, PG_ADDITIONAL, NULL, NULL, 0},
    {"x", PG_FLOAT64, {SPOTS}, 0, 1, NULL, PG_ADDITIONAL, "length", NULL, 0},
    {"y", PG_FLOAT64, {SPOTS}, 0, 1, NULL, PG_ADDITIONAL, "length", NULL, 0},
    {"width", PG_FLOAT64, {SPOTS}, NARROW, WIDE, NULL, PG_ADDITIONAL, "length", NULL, 0},
    {"height", PG_FLOAT64, {SPOTS}, -INITIAL, INITIAL, NULL, PG_ADDITIONAL, "K", NULL, 0},
};
static const pg_field sample[] = {
    {"next_temperature", PG_FLOAT32, {SIZE, SIZE}, -INFINITY, INFINITY, NULL, PG_TARGET, "K", "temperature", 2},
    {"source", PG_FLOAT32, {SIZE, SIZE}, -SOURCE, SOURCE, NULL, PG_INPUT, "K/s", NULL, 2},
    {"temperature", PG_FLOAT32, {SIZE, SIZE}, -INFINITY, INFINITY, NULL, PG_INPUT, "K", NULL, 2},
};
static const pg_setting settings[] = {{"size", SIZE, SIZE, SIZE}};

/* Set `to` to sines * from * sines, the discrete sine transform of type I but for a factor. */
static void transform(plate *p, const double *from, double *to) {
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            double sum = 0;
            for (int n = 0; n < SIZE; n++) sum += from[i * SIZE + n] * p->sines[n][j];
            p->work[i * SIZE + j] = sum;
        }
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            double sum = 0;
            for (int n = 0; n < SIZE; n++) sum += p->sines[i][n] * p->work[n * SIZE + j];
            to[i * SIZE + j] = sum;
        }
}

/* Draw spots with heights within plus and minus a bound, as parameters; what is behind the last one means nothing. */
static void draw_spots(pg_random *random, double bound, double *spots) {
    int count = (int)pg_integer(random, 1, SPOTS);
    spots[0] = count;
    for (int part = 0; part < 4; part++) {
        double low = part == 2 ? NARROW : part == 3 ? -bound : 0, high = part == 2 ? WIDE : part == 3 ? bound : 1;
        for (int i = 0; i < SPOTS; i++)
            spots[1 + SPOTS * part + i] = i < count ? pg_uniform(random, low, high) : part == 2 ? NARROW : 0;
    }
}

/* Set a field to the sum of spots, scaled down to a bound, in single precision. */
static void add_spots(const double *spots, double bound, double *field) {
    const double *x = spots + 1, *y = x + SPOTS, *width = y + SPOTS, *height = width + SPOTS;
    double largest = bound;
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            double sum = 0;
            for (int n = 0; n < (int)spots[0]; n++) {
                double up = ((i + 1.0) / (SIZE + 1) - y[n]) / width[n],
                       along = ((j + 1.0) / (SIZE + 1) - x[n]) / width[n];
                sum += height[n] * exp(-(up * up) / 2) * exp(-(along * along) / 2);
            }
            field[i * SIZE + j] = sum;
            largest = fmax(largest, fabs(sum));
        }
    for (int i = 0; i < CELLS; i++) field[i] = fmin(fmax((double)(float)(field[i] * (bound / largest)), -bound), bound);
}

static void *make(const double *given, char text[PG_TEXT]) {
    plate *p = (plate *)calloc(1, sizeof *p);
    (void)given;
    if (p == NULL) {
        snprintf(text, PG_TEXT, "out of memory");
        return NULL;
    }
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            double rate = DIFFUSIVITY * (pow(PI * (i + 1) / LENGTH, 2) + pow(PI * (j + 1) / LENGTH, 2));
            p->sines[i][j] = sin(PI * ((i + 1) * (j + 1) % (2 * (SIZE + 1))) / (SIZE + 1));
            p->decay[i * SIZE + j] = exp(-rate * TIME_STEP);
            p->gain[i * SIZE + j] = -expm1(-rate * TIME_STEP) / rate;
        }
    return p;
}

static int reset(void *env, const double *spots, pg_random *random, pg_result *result) {
    plate *p = (plate *)env;
    (void)random;
    add_spots(spots, INITIAL, p->temperature);
    memcpy(result->observation, p->temperature, sizeof p->temperature);
    return PG_OK;
}

static int step(void *env, const double *source, pg_random *random, pg_result *result) {
    plate *p = (plate *)env;
    (void)random;
    for (int i = 0; i < CELLS; i++)
        if (!isfinite(source[i])) return pg_say(result, PG_REJECTED, "the source is not finite");
    memcpy(result->sample + 2 * CELLS, p->temperature, sizeof p->temperature);
    memcpy(result->sample + CELLS, source, CELLS * sizeof *source);
    transform(p, p->temperature, p->modes);
    transform(p, source, p->sources);
    for (int i = 0; i < CELLS; i++) p->modes[i] = p->decay[i] * p->modes[i] + p->gain[i] * p->sources[i];
    transform(p, p->modes, p->temperature);
    for (int i = 0; i < CELLS; i++) p->temperature[i] *= 4.0 / ((SIZE + 1) * (SIZE + 1));
    memcpy(result->sample, p->temperature, sizeof p->temperature);
    memcpy(result->observation, p->temperature, sizeof p->temperature);
    return PG_OK;
}

static void draw_action(void *env, pg_random *random, double *source) {
    double spots[1 + 4 * SPOTS];
    (void)env;
    draw_spots(random, SOURCE, spots);
    add_spots(spots, SOURCE, source);
}

static void draw_parameters(pg_random *random, double *spots) { draw_spots(random, INITIAL, spots); }

static void get_state(void *env, double *state) { memcpy(state, ((plate *)env)->temperature, CELLS * sizeof *state); }
static void set_state(void *env, const double *state) {
    memcpy(((plate *)env)->temperature, state, CELLS * sizeof *state);
}

int main(int argc, char **argv) {
    pg_simulation simulation = pg_declared("physgym/Heat-v0");
    simulation.observation = PG_FIELDS(observation);
    simulation.action = PG_FIELDS(action);
    simulation.sample = PG_FIELDS(sample);
    simulation.parameters = PG_FIELDS(parameters);
    simulation.settings = settings;
    simulation.setting_count = 1;
    simulation.max_episode_steps = 20;
    simulation.time_step = TIME_STEP;
    simulation.make = make;
    simulation.reset = reset;
    simulation.step = step;
    simulation.close = free;
    simulation.draw_action = draw_action;
    simulation.draw_parameters = draw_parameters;
    simulation.state_size = CELLS;
    simulation.get_state = get_state;
    simulation.set_state = set_state;
    return pg_main(argc, argv, &simulation);
}
