"""English verbs of manuals, and the forms that questions need of them."""

from collections.abc import Collection

VERBS = frozenset(
    """
    abort accept access acknowledge activate actuate add address adjust admit agitate aim alert align allow alternate
    appear apply approach arm arrange assemble assign assist attach avoid back balance bar belong bend bias bind bite
    blank bleed blend blink block blow boil bolt bond boot brace brake break bridge bring browse brush buffer build
    burn button bypass calculate calibrate cancel cap carry catch cause center centre change charge chatter check
    choose clamp clean clear click clip clog close coat code coil collapse collect come compare compensate compile
    complete comply compress compute concentrate configure confirm connect consist consult contact contain continue
    control convert cool correct corrode count couple cover crack crank creep crimp cross customise customize cut
    cycle damage deactivate debug decrease define deflate degas delay delete deliver depend depress describe deselect
    destroy detach detect determine diagnose dip direct disable disarm disassemble discard discharge disconnect
    disengage dismantle dismount display dispose divide dock double download drag drain draw drift drill drive drop
    dry earn edge eject eliminate emerge empty enable enclose end energise energize engage enlarge ensure enter
    equalise equalize erase escape establish evacuate evaporate examine exceed exchange execute exit expand explain
    export extend extinguish extract face fail fall falsify fasten feed feel file fill filter find fire fit fix flag
    flare flash flood flow fluctuate flush fold follow force form free freeze fuel gain gauge generate give glow go
    grease grind grip ground grow guide halt handle hang harden haul heat hoist hold hook hum identify idle ignite
    ignore illuminate immerse import increase indicate inflate inform inhibit inject insert inspect install instruct
    insulate integrate interrupt invert investigate isolate jack jam jerk jog join jump keep kill knock label lack
    land last latch launch lay lead leak lean learn leave level lie lift light limit line link list load locate lock
    log loosen lose lower lubricate maintain make manage map mark mask match mate measure meet melt mesh mix monitor
    mount move need neutralise neutralize note notice notify number observe obtain occur oil open operate order orient
    oscillate overfill overhaul overheat overlay overload override pack paint park parse part pass paste pause permit
    pierce pin place plan plug point polarise polarize polish position pour power precharge preheat preload prepare
    press pressurise pressurize prevent prime print probe proceed produce program prop protect prove provide pull
    pulsate pulse pump punch purge push put quench query raise ramp rattle reach react read readjust ream reassemble
    rebuild receive recharge recheck recognise recommend reconnect record recover recycle reduce refer refill refit
    refuse regenerate register regulate reinstall reject release relieve rely remain remedy remove renew repack repair
    repeat replace replenish report require reseal reset resist resolve respond rest restart restore restrict resume
    retain retract retry return reveal reverse rewind ride ring rinse rise rivet roll rotate route rub run rust sag
    sample save scale scan scrape scratch screw scroll seal search seat secure see seize select send sense separate
    serve service set settle shake share sharpen shield shift shim shine ship short shorten show shut sign signal
    silence sink sit skip slacken slide sling slip slow smear smell smoke snap soak solder sound spin splice split
    spray spread squeak squeal squirt stack stall stand start stay steam steer step stick stir stop store stow
    straighten strap stretch strike strip submit suck supply support suppress surge survive suspect suspend swap sweep
    swing switch synchronise take tamper tap tape taper tear tell tension terminate test thaw thread throttle tick tie
    tighten tilt tip top torque touch tow trace transfer transmit transport trap travel treat trim trip tune turn
    twist type unblock unclip uncouple uncover undo unfold unhook unlatch unload unlock unplug unscrew unseat unwind
    update upgrade use vacuum vary vent ventilate verify vibrate view wait walk wander warm warn wash watch weaken
    wear wedge weigh weld wet whine widen wind wipe wire withdraw withstand work wrap write yield zero
    """.split()
)
"""Base forms."""
NOUNS_AND_VERBS = frozenset(
    """
    brake clutch control drain drive fan feed filter fire force fork fuel gauge gear grease ground head heat hinge hub
    ice key light lock mount oil paint part pilot pin pipe plug pump radio rain relay seal seat shim signal spring
    start steam steer switch tank test thermostat tilt tire torque trap valve vapor vent water weight winch wire
    """.split()
)
"""Verbs that name a part, or begin its name, more often than they give an order."""

_PAST = {
    **{verb: verb for verb in "bend burst cut fit hit let put read reset set shut split spread wet".split()},
    **dict(
        pair.split(":")
        for pair in """
        bend:bent bind:bound bleed:bled blow:blown break:broken bring:brought build:built catch:caught choose:chosen
        draw:drawn drive:driven fall:fallen feed:fed feel:felt find:found freeze:frozen give:given grind:ground
        hang:hung hold:held keep:kept lay:laid lead:led leave:left lose:lost make:made meet:met override:overridden
        rebuild:rebuilt run:run see:seen send:sent shake:shaken show:shown sink:sunk slide:slid spin:spun stick:stuck
        strike:struck sweep:swept swing:swung take:taken tear:torn tell:told undo:undone unwind:unwound wear:worn
        weld:welded wind:wound withdraw:withdrawn withstand:withstood write:written rewind:rewound fit:fitted
        """.split()
    ),
}
_DOUBLING = frozenset(
    """
    bar brag cap chop clip clog cut dip drag drip drop fit flag flap flip fog get grip hit jam jog knit let log mat mop
    nip pin pit plan plug pop prep prop put refit reset rig rip rub run scan scrap set shim ship shut sip sit skid skip
    slam slap slip slot snap spin split spot stir stop strap strip swab swap tap tip top transfer trap trim trip tug
    unclip unplug unwrap wet whip wrap zip begin control cancel dial equal expel fuel label level model permit program
    pumped refer signal submit swim total travel
    """.split()
)
"""Verbs that double their last letter; some only in British or only in American spelling."""
_VOWELS = "aeiou"


def base_of_gerund(gerund: str, known: Collection[str] = ()) -> str | None:
    """Return the base form of a verb's -ing form in lower case; None if none is known.

    Args:
        known: further words that may be base forms, such as those of the documents.
    """
    if not gerund.endswith("ing") or len(gerund) < 5:
        return None
    stem = gerund[:-3]
    forms = [stem, stem + "e"]
    if stem[-1] == "y":
        forms.append(stem[:-1] + "ie")  # lying
    if len(stem) > 2 and stem[-1] == stem[-2]:
        forms.insert(0, stem[:-1])
    for words in (VERBS, known):
        found = [form for form in forms if form in words and _may_be(form, gerund)]
        if found:
            return found[0]
    return None


def _may_be(base: str, gerund: str) -> bool:
    return gerund in (gerund_of(base), base + "ing", base + base[-1] + "ing") and not (
        base.endswith("e") and not base.endswith(("ee", "oe", "ye")) and gerund == base + "ing"
    )


def gerund_of(base: str) -> str:
    """Return the -ing form of a verb."""
    if base.endswith("ie"):
        return base[:-2] + "ying"
    if base.endswith("e") and not base.endswith(("ee", "oe", "ye")):
        return base[:-1] + "ing"
    if base in _DOUBLING:
        return base + base[-1] + "ing"
    return base + "ing"


def third_of(base: str) -> str:
    """Return the form after "it": "carries", "closes"."""
    if base.endswith(("s", "x", "z", "ch", "sh", "o")):
        return base + "es"
    if base.endswith("y") and base[-2] not in _VOWELS:
        return base[:-1] + "ies"
    return base + "s"


def participle_of(base: str) -> str:
    """Return the past participle of a verb."""
    if base in _PAST:
        return _PAST[base]
    if base.endswith("e"):
        return base + "d"
    if base.endswith("y") and base[-2] not in _VOWELS:
        return base[:-1] + "ied"
    return base + (base[-1] if base in _DOUBLING else "") + "ed"


_OF_THIRD = {third_of(verb): verb for verb in sorted(VERBS)}
_OF_PARTICIPLE = {participle_of(verb): verb for verb in sorted(VERBS)}


def base_of_third(form: str) -> str | None:
    """Return the base of a verb's form after "it" ("closes"); None if it is no known verb's."""
    return _OF_THIRD.get(form)


def base_of_participle(form: str) -> str | None:
    """Return the base of a past participle; None if it is no known verb's."""
    return _OF_PARTICIPLE.get(form)
