/* Two damped springs as an FMU of version 2, for co-simulation. */
#include "fmi2Functions.h"
#include "springs.h"

#define TOKEN "{8c4e810f-3df3-4a00-8276-176fa3c9f002}"

typedef struct {
    Springs now;
    double start;
    fmi2CallbackFunctions callbacks;
    char name[64];
    int ends;
} Instance;

#define SELF Instance *self = c
#define SAY(status, ...) self->callbacks.logger(self->callbacks.componentEnvironment, self->name, status, "error", __VA_ARGS__)

const char *fmi2GetTypesPlatform(void) { return fmi2TypesPlatform; }
const char *fmi2GetVersion(void) { return fmi2Version; }

fmi2Component fmi2Instantiate(fmi2String name, fmi2Type type, fmi2String token, fmi2String resources,
                              const fmi2CallbackFunctions *callbacks, fmi2Boolean visible, fmi2Boolean log)
{
    Instance *self = calloc(1, sizeof *self);
    self->callbacks = *callbacks;
    strncpy(self->name, name, sizeof self->name - 1);
    if (strcmp(token, TOKEN)) {
        SAY(fmi2Error, "the guid is %s, not %s", TOKEN, token);
        free(self);
        return NULL;
    }
    if (log) SAY(fmi2OK, "instantiated");
    defaults(&self->now);
    return self;
}

void fmi2FreeInstance(fmi2Component c) { free(c); }
fmi2Status fmi2SetDebugLogging(fmi2Component c, fmi2Boolean on, size_t n, const fmi2String names[]) { return fmi2OK; }

fmi2Status fmi2SetupExperiment(fmi2Component c, fmi2Boolean defined, fmi2Real tolerance, fmi2Real start,
                               fmi2Boolean stop_defined, fmi2Real stop)
{
    SELF;
    self->start = start;
    return fmi2OK;
}

fmi2Status fmi2EnterInitializationMode(fmi2Component c) { return fmi2OK; }

fmi2Status fmi2ExitInitializationMode(fmi2Component c)
{
    SELF;
    if (self->now.integer[FAULT] == FAILS_AT_START) {
        SAY(fmi2Error, "no initial state with %s = %d", "fault", self->now.integer[FAULT]);
        return fmi2Error;
    }
    initialize(&self->now, self->start);
    return fmi2OK;
}

fmi2Status fmi2Terminate(fmi2Component c) { return fmi2OK; }
fmi2Status fmi2Reset(fmi2Component c) { SELF; defaults(&self->now); self->ends = 0; return fmi2OK; }

#define ACCESS(Name, Type, array)                                                                                   \
    fmi2Status fmi2Get##Name(fmi2Component c, const fmi2ValueReference vr[], size_t n, Type value[])                \
    { SELF; for (size_t i = 0; i < n; i++) value[i] = self->now.array[vr[i]]; return fmi2OK; }                      \
    fmi2Status fmi2Set##Name(fmi2Component c, const fmi2ValueReference vr[], size_t n, const Type value[])          \
    { SELF; for (size_t i = 0; i < n; i++) self->now.array[vr[i]] = value[i]; return fmi2OK; }
ACCESS(Real, fmi2Real, real)
ACCESS(Integer, fmi2Integer, integer)
ACCESS(Boolean, fmi2Boolean, integer)

fmi2Status fmi2GetString(fmi2Component c, const fmi2ValueReference vr[], size_t n, fmi2String value[])
{
    SELF;
    value[0] = self->now.label;
    return fmi2OK;
}

fmi2Status fmi2SetString(fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2String value[])
{
    SELF;
    strncpy(self->now.label, value[0], sizeof self->now.label - 1);
    if (!strcmp(self->now.label, "refuse me")) {
        SAY(fmi2Error, "the label '%s' is refused", self->now.label);
        return fmi2Error;
    }
    return fmi2OK;
}

fmi2Status fmi2DoStep(fmi2Component c, fmi2Real time, fmi2Real step, fmi2Boolean no_way_back)
{
    SELF;
    if (fabs(time - self->now.time) > 1e-9) {
        SAY(fmi2Error, "a step from %g s, but it is %g s", time, self->now.time);
        return fmi2Error;
    }
    switch (advance(&self->now, step)) {
    case DISCARDS: SAY(fmi2Discard, "no convergence at %g s", time); return fmi2Discard;
    case FAILS: SAY(fmi2Error, "the matrix is singular"); return fmi2Error;
    case IS_FATAL: SAY(fmi2Fatal, "out of memory"); return fmi2Fatal;
    case ENDS:
    case ENDS_EARLY: self->ends = 1; return fmi2Discard;
    case RETURNS_EARLY: return fmi2Pending;
    }
    return fmi2OK;
}

fmi2Status fmi2GetFMUstate(fmi2Component c, fmi2FMUstate *state)
{
    SELF;
    if (*state == NULL) *state = malloc(sizeof(Springs));
    memcpy(*state, &self->now, sizeof(Springs));
    return fmi2OK;
}
fmi2Status fmi2SetFMUstate(fmi2Component c, fmi2FMUstate state) { SELF; memcpy(&self->now, state, sizeof(Springs)); return fmi2OK; }
fmi2Status fmi2FreeFMUstate(fmi2Component c, fmi2FMUstate *state) { free(*state); *state = NULL; return fmi2OK; }
fmi2Status fmi2SerializedFMUstateSize(fmi2Component c, fmi2FMUstate state, size_t *size) { *size = sizeof(Springs); return fmi2OK; }
fmi2Status fmi2SerializeFMUstate(fmi2Component c, fmi2FMUstate state, fmi2Byte bytes[], size_t size) { memcpy(bytes, state, size); return fmi2OK; }
fmi2Status fmi2DeSerializeFMUstate(fmi2Component c, const fmi2Byte bytes[], size_t size, fmi2FMUstate *state)
{
    SELF;
    if (size != sizeof(Springs)) {
        SAY(fmi2Error, "a state has %d bytes, not %d", (int)sizeof(Springs), (int)size);
        return fmi2Error;
    }
    if (*state == NULL) *state = malloc(size);
    memcpy(*state, bytes, size);
    return fmi2OK;
}

fmi2Status fmi2GetDirectionalDerivative(fmi2Component c, const fmi2ValueReference u[], size_t nu, const fmi2ValueReference k[],
                                        size_t nk, const fmi2Real dk[], fmi2Real du[]) { return fmi2Error; }
fmi2Status fmi2SetRealInputDerivatives(fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2Integer order[],
                                       const fmi2Real value[]) { return fmi2Error; }
fmi2Status fmi2GetRealOutputDerivatives(fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2Integer order[],
                                        fmi2Real value[]) { return fmi2Error; }
fmi2Status fmi2CancelStep(fmi2Component c) { return fmi2Error; }
fmi2Status fmi2GetStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Status *value) { return fmi2Discard; }
fmi2Status fmi2GetRealStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Real *value) { SELF; *value = self->now.time; return fmi2OK; }
fmi2Status fmi2GetIntegerStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Integer *value) { return fmi2Discard; }
fmi2Status fmi2GetBooleanStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Boolean *value) { SELF; *value = self->ends; return fmi2OK; }
fmi2Status fmi2GetStringStatus(fmi2Component c, const fmi2StatusKind kind, fmi2String *value) { return fmi2Discard; }
