/* Two damped springs as an FMU of version 3, for co-simulation; arrays are variables. */
#include "fmi3Functions.h"
#include "springs.h"
#include <stdio.h>

#define TOKEN "{8c4e810f-3df3-4a00-8276-176fa3c9f003}"

typedef struct {
    Springs now;
    fmi3InstanceEnvironment environment;
    fmi3LogMessageCallback log;
} Instance;

#define SELF Instance *self = instance
#define SAY(status, ...)                                        \
    do {                                                        \
        char text[200];                                         \
        snprintf(text, sizeof text, __VA_ARGS__);               \
        self->log(self->environment, status, "error", text);    \
    } while (0)

const char *fmi3GetVersion(void) { return fmi3Version; }

fmi3Instance fmi3InstantiateCoSimulation(fmi3String name, fmi3String token, fmi3String resources, fmi3Boolean visible,
                                         fmi3Boolean log, fmi3Boolean events, fmi3Boolean early,
                                         const fmi3ValueReference wanted[], size_t n, fmi3InstanceEnvironment environment,
                                         fmi3LogMessageCallback message, fmi3IntermediateUpdateCallback update)
{
    Instance *self = calloc(1, sizeof *self);
    self->environment = environment;
    self->log = message;
    if (strcmp(token, TOKEN)) {
        SAY(fmi3Error, "the token is %s, not %s", TOKEN, token);
        free(self);
        return NULL;
    }
    if (log) SAY(fmi3OK, "instantiated");
    defaults(&self->now);
    return self;
}

void fmi3FreeInstance(fmi3Instance instance) { free(instance); }
fmi3Status fmi3SetDebugLogging(fmi3Instance instance, fmi3Boolean on, size_t n, const fmi3String names[]) { return fmi3OK; }

fmi3Status fmi3EnterInitializationMode(fmi3Instance instance, fmi3Boolean defined, fmi3Float64 tolerance, fmi3Float64 start,
                                       fmi3Boolean stop_defined, fmi3Float64 stop)
{
    SELF;
    self->now.time = start;
    return fmi3OK;
}

fmi3Status fmi3ExitInitializationMode(fmi3Instance instance)
{
    SELF;
    if (self->now.integer[FAULT] == FAILS_AT_START) {
        SAY(fmi3Error, "no initial state with %s = %d", "fault", self->now.integer[FAULT]);
        return fmi3Error;
    }
    initialize(&self->now, self->now.time);
    return fmi3OK;
}

fmi3Status fmi3Terminate(fmi3Instance instance) { return fmi3OK; }
fmi3Status fmi3Reset(fmi3Instance instance) { SELF; defaults(&self->now); return fmi3OK; }

/* references FORCE, X and V are arrays of two */
#define SIZE(vr) ((vr) == FORCE || (vr) == X || (vr) == V ? 2 : 1)
#define ACCESS(Name, Type, array, size)                                                                             \
    fmi3Status fmi3Get##Name(fmi3Instance instance, const fmi3ValueReference vr[], size_t n, Type value[], size_t m) \
    {                                                                                                               \
        SELF;                                                                                                       \
        for (size_t i = 0, k = 0; i < n; i++)                                                                       \
            for (int j = 0; j < size; j++) value[k++] = self->now.array[vr[i] + j];                                 \
        return fmi3OK;                                                                                              \
    }                                                                                                               \
    fmi3Status fmi3Set##Name(fmi3Instance instance, const fmi3ValueReference vr[], size_t n, const Type value[],    \
                             size_t m)                                                                              \
    {                                                                                                               \
        SELF;                                                                                                       \
        for (size_t i = 0, k = 0; i < n; i++)                                                                       \
            for (int j = 0; j < size; j++) self->now.array[vr[i] + j] = value[k++];                                 \
        return fmi3OK;                                                                                              \
    }
ACCESS(Float64, fmi3Float64, real, SIZE(vr[i]))
ACCESS(Float32, fmi3Float32, real, 1)
/* the references of whole numbers go on from there, since they are unique in version 3 */
#define NUMBERS(Name, Type)                                                                                         \
    fmi3Status fmi3Get##Name(fmi3Instance instance, const fmi3ValueReference vr[], size_t n, Type value[], size_t m) \
    { SELF; for (size_t i = 0; i < n; i++) value[i] = self->now.integer[vr[i] - REALS]; return fmi3OK; }            \
    fmi3Status fmi3Set##Name(fmi3Instance instance, const fmi3ValueReference vr[], size_t n, const Type value[],    \
                             size_t m)                                                                              \
    { SELF; for (size_t i = 0; i < n; i++) self->now.integer[vr[i] - REALS] = (int)value[i]; return fmi3OK; }
NUMBERS(Int32, fmi3Int32)
NUMBERS(Int64, fmi3Int64)
NUMBERS(UInt8, fmi3UInt8)
NUMBERS(Boolean, fmi3Boolean)

fmi3Status fmi3GetString(fmi3Instance instance, const fmi3ValueReference vr[], size_t n, fmi3String value[], size_t m)
{
    SELF;
    value[0] = self->now.label;
    return fmi3OK;
}

fmi3Status fmi3SetString(fmi3Instance instance, const fmi3ValueReference vr[], size_t n, const fmi3String value[], size_t m)
{
    SELF;
    strncpy(self->now.label, value[0], sizeof self->now.label - 1);
    if (!strcmp(self->now.label, "refuse me")) {
        SAY(fmi3Error, "the label '%s' is refused", self->now.label);
        return fmi3Error;
    }
    return fmi3OK;
}

fmi3Status fmi3DoStep(fmi3Instance instance, fmi3Float64 time, fmi3Float64 step, fmi3Boolean no_way_back, fmi3Boolean *event,
                      fmi3Boolean *ends, fmi3Boolean *early, fmi3Float64 *reached)
{
    SELF;
    *event = *ends = *early = fmi3False;
    *reached = time;
    if (fabs(time - self->now.time) > 1e-9) {
        SAY(fmi3Error, "a step from %g s, but it is %g s", time, self->now.time);
        return fmi3Error;
    }
    switch (advance(&self->now, step)) {
    case DISCARDS: SAY(fmi3Discard, "no convergence at %g s", time); return fmi3Discard;
    case FAILS: SAY(fmi3Error, "the matrix is singular"); return fmi3Error;
    case IS_FATAL: SAY(fmi3Fatal, "out of memory"); return fmi3Fatal;
    case ENDS: *ends = fmi3True; break;
    case ENDS_EARLY: *ends = fmi3True; /* and then as below */
    case RETURNS_EARLY: *early = fmi3True; *reached = time + step / 2; return fmi3OK;
    }
    *reached = time + step;
    return fmi3OK;
}

fmi3Status fmi3GetFMUState(fmi3Instance instance, fmi3FMUState *state)
{
    SELF;
    if (*state == NULL) *state = malloc(sizeof(Springs));
    memcpy(*state, &self->now, sizeof(Springs));
    return fmi3OK;
}
fmi3Status fmi3SetFMUState(fmi3Instance instance, fmi3FMUState state) { SELF; memcpy(&self->now, state, sizeof(Springs)); return fmi3OK; }
fmi3Status fmi3FreeFMUState(fmi3Instance instance, fmi3FMUState *state) { free(*state); *state = NULL; return fmi3OK; }
fmi3Status fmi3SerializedFMUStateSize(fmi3Instance instance, fmi3FMUState state, size_t *size) { *size = sizeof(Springs); return fmi3OK; }
fmi3Status fmi3SerializeFMUState(fmi3Instance instance, fmi3FMUState state, fmi3Byte bytes[], size_t size) { memcpy(bytes, state, size); return fmi3OK; }
fmi3Status fmi3DeserializeFMUState(fmi3Instance instance, const fmi3Byte bytes[], size_t size, fmi3FMUState *state)
{
    SELF;
    if (size != sizeof(Springs)) {
        SAY(fmi3Error, "a state has %d bytes, not %d", (int)sizeof(Springs), (int)size);
        return fmi3Error;
    }
    if (*state == NULL) *state = malloc(size);
    memcpy(*state, bytes, size);
    return fmi3OK;
}

/* what this FMU does not have, and its library must name */
fmi3Status unsupported(void) { return fmi3Error; }
#define LACKS(name) extern __typeof__(name) name __attribute__((alias("unsupported")));
LACKS(fmi3InstantiateModelExchange) LACKS(fmi3InstantiateScheduledExecution) LACKS(fmi3EnterEventMode)
LACKS(fmi3GetInt8) LACKS(fmi3GetInt16) LACKS(fmi3GetUInt16) LACKS(fmi3GetUInt32) LACKS(fmi3GetUInt64)
LACKS(fmi3SetInt8) LACKS(fmi3SetInt16) LACKS(fmi3SetUInt16) LACKS(fmi3SetUInt32) LACKS(fmi3SetUInt64)
LACKS(fmi3GetBinary) LACKS(fmi3SetBinary) LACKS(fmi3GetClock) LACKS(fmi3SetClock)
LACKS(fmi3GetNumberOfVariableDependencies) LACKS(fmi3GetVariableDependencies) LACKS(fmi3GetDirectionalDerivative)
LACKS(fmi3GetAdjointDerivative) LACKS(fmi3EnterConfigurationMode) LACKS(fmi3ExitConfigurationMode)
LACKS(fmi3GetIntervalDecimal) LACKS(fmi3GetIntervalFraction) LACKS(fmi3GetShiftDecimal) LACKS(fmi3GetShiftFraction)
LACKS(fmi3SetIntervalDecimal) LACKS(fmi3SetIntervalFraction) LACKS(fmi3SetShiftDecimal) LACKS(fmi3SetShiftFraction)
LACKS(fmi3EvaluateDiscreteStates) LACKS(fmi3UpdateDiscreteStates) LACKS(fmi3EnterContinuousTimeMode)
LACKS(fmi3CompletedIntegratorStep) LACKS(fmi3SetTime) LACKS(fmi3SetContinuousStates)
LACKS(fmi3GetContinuousStateDerivatives) LACKS(fmi3GetEventIndicators) LACKS(fmi3GetContinuousStates)
LACKS(fmi3GetNominalsOfContinuousStates) LACKS(fmi3GetNumberOfEventIndicators) LACKS(fmi3GetNumberOfContinuousStates)
LACKS(fmi3EnterStepMode) LACKS(fmi3GetOutputDerivatives) LACKS(fmi3ActivateModelPartition)
