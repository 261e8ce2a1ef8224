"""Three steps, one after the other, as the workflow of `bench/engine`, for a Restate server.

pip install restate-sdk hypercorn, then: hypercorn --bind 127.0.0.1:9080 --workers 2 service:app
"""

import restate

steps = restate.Service("ThreeSteps")


@steps.handler()
async def run(ctx: restate.Context, number: int) -> int:
    for _ in range(3):
        number = await ctx.run_typed("step", lambda before=number: before + 1)
    return number


app = restate.app([steps])
