"""Plugins: what is installed, what may be loaded, loading it, and announcing events to it."""

from hardpoint.plugins.catalogue import Catalogue
from hardpoint.plugins.choice import Choice, Refusal, choose
from hardpoint.plugins.events import Events
from hardpoint.plugins.members import check_members
from hardpoint.plugins.record import Record, Selection, State

__all__ = ["Catalogue", "Choice", "Events", "Record", "Refusal", "Selection", "State", "check_members", "choose"]
