"""The widgets of the page: built once, each changes the state when a user moves it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Protocol, get_args

import viser

from viewer.playback import Timeline
from viewer.state import EXPRESSION, Base, Layer, Parts, Slider, View, ViewState, single_expression, with_override

log = logging.getLogger("view")

Change = Callable[[ViewState], ViewState]
LAYERS = dict(zip(("colour", "opacity", "depth", "consistency mask"), get_args(Layer), strict=True))
BASES: dict[str, Base] = {"the clip's frame": "clip", "the head at rest": "neutral", "the live driver": "driver"}
VIEWS: dict[str, View] = {"orbit (drag, scroll)": "orbit", "the clip's camera": "clip"}


class Actions(Protocol):
    """What the panel asks of the page."""

    def change(self, change: Change) -> None: ...
    def seek(self, place: int) -> None: ...
    def choose_camera(self, name: str) -> None: ...
    def play(self, playing: bool) -> None: ...
    def set_loop(self, loop: bool) -> None: ...
    def set_speed(self, fps: float) -> None: ...
    def screenshot(self, client: viser.ClientHandle) -> None: ...
    def film(self, client: viser.ClientHandle) -> None: ...
    def home(self, client: viser.ClientHandle) -> None: ...


class Panel:
    """The control panel, shared by all browsers that look at the page."""

    def __init__(self, gui: viser.GuiApi, actions: Actions, sliders: dict[str, Slider],
                 timeline: Timeline, driven: bool = False) -> None:
        """driven: whether there is a live driver whose codes can be chosen."""
        self._timeline, self._driven = timeline, driven
        self._gui, self._actions, self._sliders = gui, actions, sliders
        self._expressions = {name.removeprefix(EXPRESSION): slider for name, slider in sliders.items()
                             if name.startswith(EXPRESSION)}
        self.handles: dict[str, viser.GuiSliderHandle[float]] = {}
        self.status = gui.add_markdown("")
        tabs = gui.add_tab_group()
        with tabs.add_tab("Play", viser.Icon.PLAYER_PLAY):
            self._build_play(timeline.frames, timeline.fps)
            if timeline.recording.several:
                self._build_cameras(timeline.recording.cameras, timeline.camera)
        with tabs.add_tab("Face", viser.Icon.MOOD_SMILE):
            self._build_face()
        with tabs.add_tab("Look", viser.Icon.EYE):
            self._build_look()
        with tabs.add_tab("Save", viser.Icon.CAMERA):
            self._build_save()

    def show_frame(self, frame: int) -> None:
        """Move the timeline's slider to a frame."""
        assign(self.frame, self._timeline.place(frame))

    def show(self, state: ViewState, values: dict[str, float]) -> None:
        """Bring the widgets in line with a state that they did not make themselves."""
        self.show_frame(state.frame)
        assign(self.base, _key(BASES, state.base))
        assign(self.compare, state.compare)
        for name, value in values.items():
            if abs(self.handles[name].value - value) > 0.5 * self._sliders[name].step:
                assign(self.handles[name], value)

    def show_playing(self, playing: bool) -> None:
        self.play.label = "Pause" if playing else "Play"
        self.play.icon = viser.Icon.PLAYER_PAUSE if playing else viser.Icon.PLAYER_PLAY
        self._playing = playing

    def allow_comparison(self, allowed: bool, why: str) -> None:
        """Enable or disable the comparison with the ground truth; `why` is shown below it."""
        self.compare.disabled = not allowed
        self.truth_note.content = why

    def _build_cameras(self, cameras: Sequence[str], camera: int) -> None:
        recorded = self._gui.add_dropdown("Recorded by", tuple(cameras), initial_value=cameras[camera],
                                          hint="Whose frames the timeline shows")
        self._listen(recorded, lambda value: self._actions.choose_camera(str(value)))

    def _build_play(self, frames: int, fps: float) -> None:
        gui, actions = self._gui, self._actions
        self.frame = gui.add_slider("Frame", 0, max(frames - 1, 0), 1, 0, disabled=frames < 2)
        self._listen(self.frame, lambda value: actions.seek(int(value)))
        self.play = gui.add_button("Play", icon=viser.Icon.PLAYER_PLAY, disabled=frames < 2)
        self._playing = False
        self.play.on_click(lambda _: actions.play(not self._playing))
        loop = gui.add_checkbox("Loop", True)
        self._listen(loop, lambda value: actions.set_loop(bool(value)))
        speed = gui.add_slider("Frames/s", 1, 60, 1, round(min(max(fps, 1), 60)))
        self._listen(speed, lambda value: actions.set_speed(float(value)))
        self.base = gui.add_dropdown("Codes of", tuple(BASES) if self._driven else tuple(BASES)[:2],
                                     initial_value=tuple(BASES)[2 if self._driven else 0])
        self._change(self.base, lambda state, value: replace(state, base=BASES[value], compare=False))
        self.view = gui.add_dropdown("Camera", tuple(VIEWS))
        self._change(self.view, lambda state, value: replace(state, view=VIEWS[value]))
        home = gui.add_button("Back to the first view", icon=viser.Icon.HOME)
        home.on_click(lambda event: None if event.client is None else actions.home(event.client))

    def _build_face(self) -> None:
        gui = self._gui
        rest = gui.add_button("Head at rest", icon=viser.Icon.MOOD_NEUTRAL,
                              hint="All codes at rest, no slider moved")
        self._click(rest, lambda state: replace(state, base="neutral", overrides={}, compare=False))
        reset = gui.add_button("Undo all sliders", icon=viser.Icon.ARROW_BACK_UP,
                               hint="Back to the codes of the clip's frame, or of the head at rest")
        self._click(reset, lambda state: replace(state, overrides={}))
        with gui.add_folder("One blendshape alone"):
            self.single = gui.add_dropdown("Name", tuple(self._expressions))
            top = next(iter(self._expressions.values()))
            self.amplitude = gui.add_slider("Amplitude", top.low, top.high, 0.01, min(1.0, top.high))
            for widget in (self.single, self.amplitude):
                self._change(widget, lambda state, _: self._one_alone(state))
        ordered = sorted(self._sliders.values(), key=lambda slider: slider.name.startswith(EXPRESSION))
        for group, members in groupby(ordered, key=lambda slider: (slider.name.startswith(EXPRESSION), slider.group)):
            with gui.add_folder(("Blendshapes: " if group[0] else "") + group[1], expand_by_default=not group[0]):
                for slider in members:
                    self._add_slider(slider)

    def _one_alone(self, state: ViewState) -> ViewState:
        slider = self._expressions[self.single.value]
        return replace(single_expression(state, slider, self.amplitude.value), compare=False)

    def _add_slider(self, slider: Slider) -> None:
        handle = self._gui.add_slider(slider.label, slider.low, slider.high, slider.step,
                                      min(max(0.0, slider.low), slider.high))
        self.handles[slider.name] = handle
        self._change(handle, lambda state, value: with_override(state, slider, float(value)))

    def _build_look(self) -> None:
        gui = self._gui
        layer = gui.add_dropdown("Picture", tuple(LAYERS))
        self._change(layer, lambda state, value: replace(state, layer=LAYERS[value]))
        names = tuple(self._expressions)
        mask = gui.add_dropdown("Mask of", names, hint="For the picture 'consistency mask': where this expression's "
                                                       "differences act, brightest where most")
        self._change(mask, lambda state, value: replace(state, mask_expression=names.index(value)))
        parts = gui.add_dropdown("Parts", get_args(Parts))
        self._change(parts, lambda state, value: replace(state, parts=value))
        mesh = gui.add_checkbox("Head mesh", False)
        self._change(mesh, lambda state, value: replace(state, mesh=bool(value)))
        centres = gui.add_checkbox("Splat centres", False, hint="Blue: face. Orange: teeth. Nearest in front.")
        self._change(centres, lambda state, value: replace(state, centres=bool(value)))
        background = gui.add_rgb("Background", (0, 0, 0))
        self._change(background, lambda state, value: replace(state, background=_fractions(value)))
        self.compare = gui.add_checkbox("Ground truth", False, disabled=True)
        self._change(self.compare, lambda state, value: replace(
            state, compare=bool(value) and not self.compare.disabled, base="clip" if value else state.base))
        self.truth_note = gui.add_markdown("Looking for the data set ...")

    def _build_save(self) -> None:
        gui, actions = self._gui, self._actions
        shot = gui.add_button("Screenshot (PNG)", icon=viser.Icon.PHOTO)
        shot.on_click(lambda event: None if event.client is None else actions.screenshot(event.client))
        film = gui.add_button("Film of the timeline (MP4)", icon=viser.Icon.MOVIE)
        film.on_click(lambda event: None if event.client is None else actions.film(event.client))
        self.progress = gui.add_progress_bar(0.0, visible=False)
        gui.add_markdown("Both at the window's size, as it looks now; the browser saves the file.")

    def _change(self, widget: Any, change: Callable[[ViewState, Any], ViewState]) -> None:
        self._listen(widget, lambda value: self._actions.change(lambda state: change(state, value)))

    def _click(self, button: viser.GuiButtonHandle, change: Change) -> None:
        button.on_click(lambda _: self._actions.change(change))

    def _listen(self, widget: Any, act: Callable[[Any], None]) -> None:
        """Call `act` with a widget's value when a browser changed it; what we set ourselves calls nothing.

        A browser may send anything: a value that `act` refuses is taken back.
        """
        good = [widget.value]

        @widget.on_update
        def _(event: viser.GuiEvent[Any]) -> None:
            if event.client is None:
                return
            try:
                act(widget.value)
                good[0] = widget.value
            except (ValueError, KeyError, TypeError) as error:
                log.warning("ignored a value of a browser: %s", error)
                assign(widget, good[0])


def _fractions(color: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (min(max(part, 0), 255) / 255 for part in color)
    return red, green, blue


def _key(table: Mapping[str, str], value: str) -> str:
    return next(key for key, entry in table.items() if entry == value)


def assign(widget: Any, value: Any) -> None:
    """Set a widget's value for all browsers, when it is another than the widget's."""
    if widget.value != value:
        widget.value = value
