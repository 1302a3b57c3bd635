"""Plugins: what is installed, what may be loaded, loading it, and announcing events to it."""

from hardpoint.plugins.catalogue import Catalogue
from hardpoint.plugins.choice import Choice, Refusal, choose
from hardpoint.plugins.members import check_members
from hardpoint.plugins.record import Record, Selected, State

__all__ = ["Catalogue", "Choice", "Record", "Refusal", "Selected", "State", "check_members", "choose"]
