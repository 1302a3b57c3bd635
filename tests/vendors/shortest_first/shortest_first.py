"""A scheduling policy for Hardpoint: small requests run before large ones."""

from hardpoint.contract.descriptor import Descriptor
from hardpoint.contract.policy import RequestView, SortKey

SECONDS_PER_TOKEN = 0.01  # how much later than it came a request counts, for every token that it may take

DESCRIPTOR = Descriptor(
    kind="schedulers",
    name="shortest_first",
    contract=(1, 0),
    implementation="shortest_first:ShortestFirst",
    summary="requests that take the fewest tokens run first",
)


class ShortestFirst:
    """Orders requests by their size; one that has waited long enough is overtaken no more."""

    name = "shortest_first"

    def key(self, request: RequestView) -> SortKey:
        tokens = request.num_prompt + request.max_tokens
        return (request.arrival + tokens * SECONDS_PER_TOKEN, request.order)
