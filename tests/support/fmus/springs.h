/* Two damped springs with one stiffness, mass and friction: what the FMUs of both versions share. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STIFFNESS, MASS, FRICTION, POSITION, FORCE, X = FORCE + 2, V = X + 2, ENERGY = V + 2, REALS };
enum { MODE, GAIN, FAULT, COUNT, BLOCKED, MOVING, INTEGERS };
enum { NONE, DISCARDS, FAILS, IS_FATAL, ENDS, RETURNS_EARLY, GIVES_NAN, FAILS_AT_START, ENDS_EARLY };

typedef struct {
    double real[REALS];
    int integer[INTEGERS];
    char label[32];
    double time;
} Springs;

static void defaults(Springs *s)
{
    memset(s, 0, sizeof *s);
    s->real[STIFFNESS] = 10.0;
    s->real[MASS] = 1.0;
    s->real[FRICTION] = 0.5;
    s->integer[MODE] = 1;
    s->integer[GAIN] = 1;
}

static void outputs(Springs *s)
{
    double *r = s->real;
    r[ENERGY] = 0.0;
    for (int i = 0; i < 2; i++)
        r[ENERGY] += 0.5 * r[MASS] * r[V + i] * r[V + i] + 0.5 * r[STIFFNESS] * r[X + i] * r[X + i];
    s->integer[MOVING] = fabs(r[V]) > 1e-3;
}

static void initialize(Springs *s, double time)
{
    s->real[X] = s->real[X + 1] = s->real[POSITION];
    s->time = time;
    outputs(s);
}

/* Move on; return the fault that the parameter `fault` asks for, from 0.25 s on. */
static int advance(Springs *s, double step)
{
    double *r = s->real;
    int fault = s->time + step > 0.25 ? s->integer[FAULT] : NONE;
    if (fault != NONE && fault != GIVES_NAN && fault != ENDS) return fault;
    for (int k = 0; k < 10; k++)
        for (int i = 0; i < 2; i++) {
            double stretch = s->integer[MODE] == 2 ? r[X + i] * r[X + i] * r[X + i] : r[X + i];
            double force = s->integer[GAIN] * r[FORCE + i] - r[STIFFNESS] * stretch - r[FRICTION] * r[V + i];
            r[V + i] = s->integer[BLOCKED] ? 0.0 : r[V + i] + 0.1 * step * force / r[MASS];
            r[X + i] += 0.1 * step * r[V + i];
        }
    s->time += step;
    s->integer[COUNT]++;
    if (fault == GIVES_NAN) r[X] = NAN;
    outputs(s);
    return fault == ENDS ? ENDS : NONE;
}
