"""Dead letters: what cannot be delivered, with all that a redrive needs to know."""

from __future__ import annotations

from uuid import UUID, uuid5

from xml_pipeline.routing.calls import Climbed
from xml_pipeline.routing.system_messages import ErrorPayload
from xml_pipeline.routing.working import Draft, Mishap, Working
from xml_pipeline.storage.routing_rows import DeadLetterRow, InboxRow, LetterRow, MessageRow


def of_message(message: MessageRow, error: ErrorPayload, climbed: Climbed) -> DeadLetterRow:
    """A message that was tried for the last time. The database knows its payload."""
    about = (letter_id(message.id), message.id, message.thread_id, message.to_id)
    return DeadLetterRow(*about, error.code, error.text, message.tries, None, climbed.calls, climbed.failed)


def of_draft(draft: Draft, error: ErrorPayload, climbed: Climbed) -> DeadLetterRow:
    """A message that was refused as it was about to be inserted."""
    about = (letter_id(draft.id), draft.id, draft.thread_id, draft.to_id)
    return DeadLetterRow(*about, error.code, error.text, 0, draft.payload, climbed.calls, climbed.failed)


def of_inbox(work: Working, row: InboxRow, code: str, reason: str) -> DeadLetterRow:
    """What was accepted and cannot become a message. An inject's thread fails by it; a redrive's has failed already."""
    line = f"{code}: {reason}"
    work.mishaps.append(Mishap(row.thread_id, row.to_id, line))
    about = (letter_id(row.id), row.id, row.thread_id, row.to_id, code, reason, 0, row.body)
    if row.letter_id is None:
        thread = work.thread(row.thread_id)
        thread.failed += 1
        thread.error = line
        return DeadLetterRow(*about, failed=True)
    return _of_redrive(row, work.snapshot.letters.get(row.letter_id), code, reason)


def closed_by(letter: LetterRow) -> Climbed:
    """What the failure of a letter closed."""
    return Climbed(tuple(letter.calls), letter.failed)


def letter_id(message_id: UUID) -> UUID:
    """One letter for each message."""
    return uuid5(message_id, "dead-letter")


def _of_redrive(row: InboxRow, letter: LetterRow | None, code: str, reason: str) -> DeadLetterRow:
    """About the message that the first letter was about; somebody may have deleted that by hand."""
    message_id, climbed = (None, Climbed()) if letter is None else (letter.message_id, closed_by(letter))
    about = (letter_id(row.id), message_id, row.thread_id, row.to_id, code, reason, 0, row.body)
    return DeadLetterRow(*about, climbed.calls, climbed.failed)
