"""The statements of the routing transaction, for PostgreSQL. Arrays in, rows out: one round trip for a batch each.

Where rows are named by id, `state || ''` and `num_nulls` keep the planner from the partial indexes. With statistics of
a quiet moment it takes those for nearly empty, and reads the whole backlog once for each id.
"""

RESOLVE = """
select thread_id from messages where id = any($1::uuid[])
union
select thread_id from inbox where id = any($2::uuid[])
"""

LOCK_THREADS = """
select id, status, open, slots, failed, participants, error
from threads where id = any($1::uuid[]) order by id for no key update
"""

READ_MESSAGES = """
select id, thread_id, from_id, to_id, kind, payload_type, call_id, hop, mailbox, state, attempt,
       coalesce(deadline < clock_timestamp(), false) as overdue, parks
from messages where id = any($1::uuid[])
"""

# The calls that the messages are handled in, and their callers' up to `api`: an error may climb all of them.
READ_CALLS = """
with recursive chain as (
    select c.* from calls c where c.id = any($1::uuid[])
    union
    select p.* from calls p join chain on p.id = chain.parent
)
select id, thread_id, caller, callee, parent, awaited, pending, open, answered from chain
"""

READ_INBOX = """
select id, thread_id, to_id, body, taken_at is not null as taken, letter_id from inbox where id = any($1::uuid[])
"""

# The letters that are redriven, each with the message that it is about.
READ_LETTERS = """
select d.id, d.message_id, d.calls, d.failed, m.from_id, m.kind, m.call_id, m.answers, m.hop
from dead_letters d left join messages m on m.id = d.message_id where d.id = any($1::uuid[])
"""

READ_TURNS = "select id from turns where id = any($1::uuid[])"

NOW = "select clock_timestamp()"

# A message may become `out` between the read and this statement: releasing takes no thread's lock.
CLOSE = """
update messages m set state = 'closed', outcome = d.outcome, turn_id = d.turn_id, closed_at = clock_timestamp(),
    parked_for = null
from unnest($1::uuid[], $2::text[], $3::uuid[]) d(id, outcome, turn_id)
where m.id = d.id and m.state || '' in ('ready', 'out')
returning m.id
"""

POSTPONE = """
update messages m set state = 'ready', deadline = null,
    due_at = case when d.delay > 0 then
        clock_timestamp() + make_interval(secs => d.delay * (1 - d.jitter + 2 * d.jitter * random())) end
from unnest($1::uuid[], $2::int[], $3::float8[], $4::float8[]) d(id, attempt, delay, jitter)
where m.id = d.id and m.state || '' = 'out' and m.attempt = d.attempt
returning m.id
"""

# Never due by itself: `routing_parking` makes it so.
PARK = """
update messages m set state = 'ready', deadline = null, due_at = 'infinity', parked_for = d.tokens, parks = m.parks + 1
from unnest($1::uuid[], $2::int[], $3::bigint[]) d(id, attempt, tokens)
where m.id = d.id and m.state || '' = 'out' and m.attempt = d.attempt
returning m.id
"""

RETURNED = """
update messages set confirmed = false, sent_at = '-infinity' where id = any($1::uuid[]) and state || '' = 'out'
"""

TAKE = """
update inbox set taken_at = clock_timestamp() where id = any($1::uuid[]) and num_nulls(taken_at) = 1 returning id
"""

# Waiting, unless its mailbox is free: then it would be promoted next, at the price of another row version.
INSERT = """
insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, call_id, answers, remaining, hop,
                      mailbox, state, outcome, redrive_of, closed_at)
select d.id, d.thread_id, d.slot, d.from_id, d.to_id, d.kind, d.payload_type, d.body, d.call_id, d.answers, d.remaining,
       d.hop, d.mailbox,
       case when d.state <> 'waiting' then d.state
            when exists (select 1 from messages w
                         where w.thread_id = d.thread_id and w.to_id = d.to_id and w.state = 'waiting') then 'waiting'
            when d.mailbox then case when d.place > 1 or exists (
                select 1 from messages o where o.thread_id = d.thread_id and o.to_id = d.to_id and o.mailbox
                                           and o.state in ('ready', 'out')) then 'waiting' else 'ready' end
            else case when d.place + (
                select count(*) from messages o where o.thread_id = d.thread_id and o.to_id = d.to_id
                                                  and not o.mailbox and o.state in ('ready', 'out')
            ) > $17 then 'waiting' else 'ready' end
       end,
       d.outcome, d.redrive_of, case when d.state = 'closed' then clock_timestamp() end
from (
    select *, row_number() over (partition by thread_id, to_id order by nth) as place
    from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
                $9::uuid[], $10::uuid[], $11::int[], $12::int[], $13::bool[], $14::text[], $15::text[],
                $16::uuid[])
         with ordinality u(id, thread_id, slot, from_id, to_id, kind, payload_type, body, call_id, answers, remaining,
                           hop, mailbox, state, outcome, redrive_of, nth)
) d
order by d.nth
on conflict (id) do nothing
returning id, created_at
"""

INSERT_CALLS = """
insert into calls (id, thread_id, caller, callee, parent, awaited, pending, open, answered)
select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::bool[], $7::int[], $8::int[],
                     $9::bool[])
"""

UPDATE_CALLS = """
update calls c set pending = d.pending, open = d.open, answered = d.answered
from unnest($1::uuid[], $2::int[], $3::int[], $4::bool[]) d(id, pending, open, answered) where c.id = d.id
"""

UPDATE_THREADS = """
update threads t set
    open = t.open + d.delta, slots = d.slots, failed = d.failed, error = d.error, last_activity = clock_timestamp(),
    participants = string_to_array(d.participants, E'\\x1f'),
    status = case when t.status = 'killed' then 'killed' when t.open + d.delta > 0 then 'active'
                  when d.failed > 0 then 'error' else 'completed' end
from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::text[], $6::text[])
     d(id, delta, slots, failed, participants, error)
where t.id = d.id
returning t.id, t.status, t.open, t.slots, t.failed, t.participants, t.error
"""

INSERT_TURNS = """
insert into turns (id, message_id, attempt, outcome, counted, reason, duration_ms)
select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::bool[], $6::text[], $7::int[])
"""

INSERT_DEAD_LETTERS = """
insert into dead_letters (id, message_id, thread_id, listener, code, reason, attempts, body, calls, failed)
select d.id, d.message_id, d.thread_id, d.listener, d.code, d.reason, d.attempts,
       coalesce(d.body, (select m.body from messages m where m.id = d.message_id), ''::bytea),
       d.calls::uuid[], d.failed
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::int[], $8::bytea[], $9::text[],
            $10::bool[])
     d(id, message_id, thread_id, listener, code, reason, attempts, body, calls, failed)
on conflict (id) do nothing
"""

INSERT_AUDITS = """
insert into audit_log (actor, action, subject, detail)
select d.actor, d.action, d.subject, d.detail::jsonb
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) d(actor, action, subject, detail)
"""

PROMOTE_HEADS = """
update messages set state = 'ready' where id in (
    select h.id from unnest($1::uuid[], $2::text[]) p(thread_id, to_id)
    cross join lateral (
        select w.id from messages w
        where w.thread_id = p.thread_id and w.to_id = p.to_id and w.state = 'waiting' and w.mailbox
        order by w.slot
        limit case when exists (
            select 1 from messages o
            where o.thread_id = p.thread_id and o.to_id = p.to_id and o.mailbox and o.state in ('ready', 'out')
        ) then 0 else 1 end
    ) h
)
"""

# Messages to tools do not wait for each other, but a thread has at most $3 of them competing for a window.
PROMOTE_SHARED = """
update messages set state = 'ready' where id in (
    select h.id from unnest($1::uuid[], $2::text[]) p(thread_id, to_id)
    cross join lateral (
        select w.id from messages w
        where w.thread_id = p.thread_id and w.to_id = p.to_id and w.state = 'waiting' and not w.mailbox
        order by w.slot
        limit greatest(0, $3 - (
            select count(*) from messages o
            where o.thread_id = p.thread_id and o.to_id = p.to_id and not o.mailbox and o.state in ('ready', 'out')
        ))
    ) h
)
"""

LOCK_LISTENERS = """
select name, is_agent, paused or retired as paused,
       coalesce(window_size, greatest($2::int, 2 * capacity)) as window
from listeners where name = any($1::text[]) order by name for update
"""

LISTENERS_WITH_WORK = """
select l.name from listeners l
where not l.paused and not l.retired and exists (
    select 1 from messages m
    where m.to_id = l.name and m.state = 'ready' and m.parked_for is null
      and (m.due_at is null or m.due_at <= clock_timestamp())
)
"""

COUNT_OUT = (
    "select to_id, count(*)::int as n from messages where state = 'out' and to_id = any($1::text[]) group by to_id"
)

# The oldest first, but for tools each thread's first before any thread's second. SKIP LOCKED: a batch that closes a
# ready message holds its row and may be waiting for the lock on the listener that this one holds.
RELEASE = """
with room as (
    select * from unnest($1::text[], $2::int[], $3::bool[], $4::float8[]) r(name, free, is_agent, timeout)
), busy as (
    select m.to_id, m.thread_id, count(*) as n from messages m join room r on r.name = m.to_id and not r.is_agent
    where m.state = 'out' group by m.to_id, m.thread_id
), candidates as materialized (
    select c.id, r.name, r.free, c.seq,
           row_number() over (partition by r.name, c.thread_id order by c.seq) + coalesce(b.n, 0) as nth
    from room r cross join lateral (
        select m.id, m.thread_id, m.seq from messages m
        where m.to_id = r.name and m.state = 'ready' and m.parked_for is null
          and (m.due_at is null or m.due_at <= clock_timestamp())
        order by m.seq limit case when r.is_agent then r.free else r.free * $5 end
    ) c
    left join busy b on b.to_id = r.name and b.thread_id = c.thread_id
), picked as materialized (
    select id from (
        select id, free, row_number() over (partition by name order by nth, seq) as rank from candidates
    ) ranked where rank <= free
), locked as materialized (
    select l.id from picked p cross join lateral (
        select m.id from messages m where m.id = p.id and m.state || '' = 'ready' for update skip locked
    ) l
)
update messages m set state = 'out', attempt = m.attempt + 1, sent_at = clock_timestamp(), due_at = null,
    confirmed = false, deadline = clock_timestamp() + make_interval(secs => r.timeout)
from locked l, room r where m.id = l.id and r.name = m.to_id
returning m.id, m.thread_id, m.slot, m.from_id, m.to_id, m.kind, m.body, m.call_id, m.remaining, m.attempt, m.seq,
    cast(extract(epoch from m.sent_at - m.created_at) as float8) as waited
"""

# What was redriven is there once more.
REPLIES = """
select r.id as message_id, e.from_id, e.kind, e.body
from unnest($1::uuid[], $2::uuid[], $3::int[]) r(id, call_id, slot)
cross join lateral (
    select n.* from (
        select m.from_id, m.kind, m.body, m.slot, sum(length(m.body)) over (order by m.slot desc) as total
        from messages m
        where m.call_id = r.call_id and m.slot < r.slot and m.kind <> 'request'
          and m.outcome is distinct from 'redriven'
        order by m.slot desc limit $4
    ) n where n.total <= $5
) e
order by r.id, e.slot
"""

# Last in its transaction and skipping what is locked, so that it never waits.
NOTE_SENT = """
update messages set confirmed = true where id in (
    select m.id from unnest($1::uuid[], $2::int[]) d(id, attempt)
    join messages m on m.id = d.id and m.attempt = d.attempt
    where m.state || '' = 'out' and not m.confirmed
    for update of m skip locked
)
"""
