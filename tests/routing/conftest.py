"""What every test of the routing core needs from hypothesis."""

from __future__ import annotations

from hypothesis.vendor.pretty import RepresentationPrinter, for_type_by_name

from cordboard.routing.numbers import E164, Pin


def _print_number(number: E164, printer: RepresentationPrinter, _cycle: bool) -> None:
    printer.text(f"E164({int(number)})")


def _print_pin(pin: Pin, printer: RepresentationPrinter, _cycle: bool) -> None:
    printer.text(f"Pin({pin.digits!r})")


# Numbers and PINs hide themselves, which would leave a falsified property without its example. Those
# of the tests are made up.
for_type_by_name(E164.__module__, E164.__name__, _print_number)
for_type_by_name(Pin.__module__, Pin.__name__, _print_pin)
